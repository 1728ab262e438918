/* blas_room.h: is there the address space that OpenBLAS wants?
 *
 * It maps 128 MB a thread, and where ulimit -v or -d forbids that it tries again for ever, already while the program is
 * loaded. So the question is asked before: at the first start, before any library's constructor, by the executable itself
 * (one line, exit 1), and by who wants more threads of it than it was loaded with. */
#ifndef BLAS_ROOM_H
#define BLAS_ROOM_H

/* Ends the program with a line, exit 1, where `more` threads' room cannot be had; `threads` is how many there are to be. */
void blas_room_require(int more, int threads);

#endif
