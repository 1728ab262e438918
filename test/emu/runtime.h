/* runtime.h: what the emulated runtime's files share: one lock around each call, pointers, errors, the
 * queues. */
#ifndef EMU_RUNTIME_H
#define EMU_RUNTIME_H

#include <mutex>

#include "cuda_runtime.h"

namespace emu {

std::recursive_mutex &runtime_mutex();
struct Lock {
    std::lock_guard<std::recursive_mutex> guard;
    Lock() : guard(runtime_mutex()) {}
};

/* A fault if an earlier call's error is still kept: the program went on over it. */
void require_no_error(const char *operation);
bool on_device(const void *pointer);
/* Runs all queued work; a fault while a capture is open, where CUDA forbids synchronising. */
void run_everything(const char *operation);

} // namespace emu

#endif
