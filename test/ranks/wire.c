/*
 * wire.c: how many bytes does a rank hand to MPI for the others?
 *
 * MPI's profiling interface: preloaded into the program, this takes the calls that kernels/cpu/collective.c makes, counts
 * and passes them on. Of an all-to-all a rank sends what is not its own; of a gather it sends its piece to each of the
 * others, which is the least that any algorithm can do; of a broadcast rank 0 sends to each of the others. At the end
 * rank R writes its count to WIRE_FILE.R.
 *
 *     mpicc -DWITH_MPI -shared -fPIC test/ranks/wire.c -o wire.so
 *     WIRE_FILE=sent mpirun -n 2 -x LD_PRELOAD=$PWD/wire.so ./train_gpt …
 */
#ifdef WITH_MPI
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t sent;

static int64_t size_of(MPI_Datatype type) {
    int size = 0;
    PMPI_Type_size(type, &size);
    return size;
}

static void who(MPI_Comm comm, int *rank, int *count) {
    PMPI_Comm_rank(comm, rank);
    PMPI_Comm_size(comm, count);
}

int MPI_Ialltoallv(const void *from, const int counts[], const int places[], MPI_Datatype type, void *to,
                   const int to_counts[], const int to_places[], MPI_Datatype to_type, MPI_Comm comm, MPI_Request *request) {
    int rank, count;
    who(comm, &rank, &count);
    for (int r = 0; r < count; r++)
        if (r != rank) sent += counts[r] * size_of(type);
    return PMPI_Ialltoallv(from, counts, places, type, to, to_counts, to_places, to_type, comm, request);
}

int MPI_Iallgatherv(const void *from, int from_count, MPI_Datatype from_type, void *to, const int counts[],
                    const int places[], MPI_Datatype type, MPI_Comm comm, MPI_Request *request) {
    int rank, count;
    who(comm, &rank, &count);
    sent += (int64_t)(count - 1) * counts[rank] * size_of(type);
    return PMPI_Iallgatherv(from, from_count, from_type, to, counts, places, type, comm, request);
}

int MPI_Ibcast(void *buffer, int elements, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request *request) {
    int rank, count;
    who(comm, &rank, &count);
    if (rank == root) sent += (int64_t)(count - 1) * elements * size_of(type);
    return PMPI_Ibcast(buffer, elements, type, root, comm, request);
}

int MPI_Finalize(void) {
    char name[4096];
    int rank = 0;
    PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
    snprintf(name, sizeof name, "%s.%d", getenv("WIRE_FILE") ? getenv("WIRE_FILE") : "wire", rank);
    FILE *file = fopen(name, "w");
    if (file) {
        fprintf(file, "%lld", (long long)sent);
        fclose(file);
    }
    return PMPI_Finalize();
}

#else

typedef int wire_needs_mpi; /* a file holds something */

#endif
