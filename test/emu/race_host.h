/* race_host.h: put before every C file of the host by -include when it is built for the race checker: the
   library's functions that write or read memory for it are accesses of the host's as well. */
#ifndef EMU_RACE_HOST_H
#define EMU_RACE_HOST_H

#include <string.h>
#include <unistd.h>

void *emu_race_memcpy(void *to, const void *from, size_t bytes);
void *emu_race_memmove(void *to, const void *from, size_t bytes);
void *emu_race_memset(void *to, int value, size_t bytes);
ssize_t emu_race_pread(int file, void *to, size_t bytes, off_t offset);

#define memcpy(to, from, bytes)        emu_race_memcpy(to, from, bytes)
#define memmove(to, from, bytes)       emu_race_memmove(to, from, bytes)
#define memset(to, value, bytes)       emu_race_memset(to, value, bytes)
#define pread(file, to, bytes, offset) emu_race_pread(file, to, bytes, offset)

#endif
