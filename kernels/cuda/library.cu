/* library.cu: see library.cuh. */
#include "library.cuh"

#include <dlfcn.h>
#include <stdio.h>

bool Library::open() {
    handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        snprintf(text, size, "%s cannot be loaded (%s): LD_LIBRARY_PATH must name the folder that holds it",
                 file, dlerror());
    return handle != NULL;
}

void *Library::address(const char *function) {
    void *found = dlsym(handle, function);
    if (!found)
        snprintf(text, size, "%s has no %s: it is not the library that this program was built for", file,
                 function);
    return found;
}
