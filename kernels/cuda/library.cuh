/*
 * library.cuh: how a program without cuBLASLt or NCCL starts all the same.
 *
 * One executable serves machines with and without a GPU. Were such a library linked, the loader would refuse to
 * start the program wherever it is missing (it comes with a toolkit, not with the driver); and where it is there,
 * every start, on a CPU too, would map and relocate cuBLASLt's half gigabyte. So each is opened when it is needed.
 * Its header gives the functions' types; they are called through a table:
 *
 *     #define FUNCTIONS(X) X(Create) X(Destroy)
 *     #define MEMBER(name) LIBRARY_FUNCTION(cublasLt, name)
 *     struct { FUNCTIONS(MEMBER) } table;                      table.Create(&handle);
 *     #define FIND(name) &&library.find("cublasLt" #name, &table.name)
 *     return library.open() FUNCTIONS(FIND);
 */
#ifndef LIBRARY_CUH
#define LIBRARY_CUH

#include <stddef.h>

/* The last member of a library's name is its binary interface: the major version that the header had. */
#define LIBRARY_TEXT(x)           #x
#define LIBRARY_FILE(name, major) name ".so." LIBRARY_TEXT(major)

/* A pointer to the library's function PREFIXNAME, called NAME. */
#define LIBRARY_FUNCTION(prefix, name) decltype(&::prefix##name) name;

/* A library while it is opened. open() and find() return false with one line in text[size] where the file, or the
   function in it, is not there. */
struct Library {
    const char *file;
    char *text;
    size_t size;
    void *handle;

    bool open();
    void *address(const char *function);
    template <typename Function> bool find(const char *name, Function *function) {
        *function = reinterpret_cast<Function>(address(name));
        return *function != NULL;
    }
};

#endif
