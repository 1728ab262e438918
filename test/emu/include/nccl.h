/*
 * nccl.h: NCCL's collectives, the part that this project uses, over MPI (nccl.cpp).
 *
 * Names and values are NVIDIA's. One communicator's ranks are the processes of one mpirun: rank i is MPI's rank i;
 * a communicator of one rank needs no MPI. A call is work of its stream. Stricter than NCCL, which would hang or sum
 * what lies there: ranks that differ in operation, type or count, a rank that does not come within EMU_NCCL_TIMEOUT
 * seconds (of the environment; 60), a buffer that is not device memory or not aligned to an element, send and receive
 * that overlap but for NCCL's in-place forms, a sum of what nobody wrote, a communicator whose calls run in another
 * order than they were queued, a unique id used twice, a communicator finalized or destroyed while a stream or a graph
 * still holds a call of it, a call of one that is still at something (ncclInProgress).
 *
 * NCCL_COMM_ID=HOST:PORT, in the environment at the first call and unchanged from then on, makes every id that of the
 * address; rank 0 then listens there in ncclCommInitRankConfig, the others connect, and until all have come all wait.
 */
#ifndef EMU_NCCL_H
#define EMU_NCCL_H

#include "cuda_runtime.h"

#define NCCL_MAJOR           2
#define NCCL_UNIQUE_ID_BYTES 128

typedef struct ncclComm *ncclComm_t;
typedef struct {
    char internal[NCCL_UNIQUE_ID_BYTES];
} ncclUniqueId;

typedef enum {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
    ncclInProgress = 7
} ncclResult_t;

/* blocking: 0 or 1; the initializer leaves it undefined, which is 1. */
typedef struct {
    size_t size;
    int blocking;
} ncclConfig_t;
#define NCCL_CONFIG_INITIALIZER {sizeof(ncclConfig_t), -2147483647 - 1}

typedef enum { ncclSum = 0 } ncclRedOp_t;
typedef enum { ncclFloat32 = 7, ncclFloat64 = 8, ncclBfloat16 = 9 } ncclDataType_t;

extern "C" {

[[nodiscard]] ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
[[nodiscard]] ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank);
[[nodiscard]] ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                                  ncclConfig_t *config);
[[nodiscard]] ncclResult_t ncclCommFinalize(ncclComm_t comm);
[[nodiscard]] ncclResult_t ncclCommDestroy(ncclComm_t comm);
ncclResult_t ncclCommAbort(ncclComm_t comm);
/* ncclInProgress while a communicator that does not block is at something; ncclRemoteError once a rank's process is gone. */
[[nodiscard]] ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error);
const char *ncclGetErrorString(ncclResult_t result);
const char *ncclGetLastError(ncclComm_t comm);

[[nodiscard]] ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                                         ncclRedOp_t sum, ncclComm_t comm, cudaStream_t stream);
[[nodiscard]] ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t receive_count,
                                             ncclDataType_t type, ncclRedOp_t sum, ncclComm_t comm,
                                             cudaStream_t stream);
[[nodiscard]] ncclResult_t ncclAllGather(const void *send, void *receive, size_t send_count,
                                         ncclDataType_t type, ncclComm_t comm, cudaStream_t stream);
[[nodiscard]] ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type,
                                         int root, ncclComm_t comm, cudaStream_t stream);

} // extern "C"

#endif
