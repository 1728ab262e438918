/* address.c: see address.h. */
#define _GNU_SOURCE
#include "address.h"
#include "../base/checksum.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HOST_SIZE = 256, PORT_MOST = 65535, PORT_FIRST = 10000, PORT_COUNT = 20000 };

/* A whole number from 1 to `most`, or 0. */
static int read_port(const char *text, int most) {
    char *end;
    errno = 0;
    long port = strtol(text, &end, 10);
    return end != text && *end == '\0' && errno == 0 && port >= 1 && port <= most && text[0] != '+' && text[0] != ' ' ? (int)port : 0;
}

/* An address that a person wrote: NCCL takes HOST:PORT, and [IPv6]:PORT. */
static bool take_address(const char *what, const char *given, char address[ADDRESS_SIZE], Error *error) {
    const char *colon = strrchr(given, ':');
    size_t host = colon ? (size_t)(colon - given) : 0;
    bool bracketed = host > 2 && given[0] == '[' && given[host - 1] == ']';
    bool is_host = bracketed || (host && !memchr(given, ':', host) && strcspn(given, "[] \t/") >= host);
    if (!colon || !is_host || host >= HOST_SIZE || !read_port(colon + 1, PORT_MOST))
        return error_set(error, "%s %s is no address: HOST:PORT is wanted, such as node0:29501 or [fd00::1]:29501", what, given);
    snprintf(address, ADDRESS_SIZE, "%s", given);
    return true;
}

/* scontrol's first line: the first host of the list. No shell sees the list. */
static bool ask_scontrol(const char *list, char host[HOST_SIZE], Error *error) {
    int ends[2], status = 0;
    if (pipe(ends)) return error_set(error, "a pipe to scontrol: %s", strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]), close(ends[1]);
        execlp("scontrol", "scontrol", "show", "hostnames", list, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *said = child > 0 ? fdopen(ends[0], "r") : NULL;
    host[0] = '\0';
    if (said && fgets(host, HOST_SIZE, said)) host[strcspn(host, "\r\n")] = '\0';
    while (said && fgetc(said) != EOF) {}
    if (said) fclose(said);
    else close(ends[0]);
    if (child > 0) waitpid(child, &status, 0);
    if (child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && host[0]) return true;
    return error_set(error, "`scontrol show hostnames %s` names no host: --rendezvous HOST:PORT says where the ranks meet", list);
}

static bool find_host(char host[HOST_SIZE], Error *error) {
    const char *master = getenv("MASTER_ADDR"), *nodes = getenv("SLURM_STEP_NODELIST");
    if (!master && !nodes)
        return error_set(error, "the ranks do not know where to meet: give --rendezvous HOST:PORT, with rank 0's host, or set "
                         "MASTER_ADDR and MASTER_PORT");
    if (!master && strpbrk(nodes, "[,")) return ask_scontrol(nodes, host, error);
    const char *given = master ? master : nodes;
    if (!given[0] || strlen(given) >= HOST_SIZE || strpbrk(given, " \t/"))
        return error_set(error, "%s is \"%.200s\": a host is wanted", master ? "MASTER_ADDR" : "SLURM_STEP_NODELIST", given);
    snprintf(host, HOST_SIZE, "%s", given);
    return true;
}

/* Ports above 32767 are what Linux gives to whoever asks for any. */
static int port_of_job(const char *id, const char *part) {
    char text[256];
    snprintf(text, sizeof text, "%.200s.%.40s", id, part ? part : "");
    return PORT_FIRST + (int)(checksum(0, text, strlen(text)) % PORT_COUNT);
}

static bool find_port(int *port, Error *error) {
    const char *master = getenv("MASTER_PORT"), *slurm = getenv("SLURM_JOB_ID"), *torchrun = getenv("TORCHELASTIC_RUN_ID");
    if (master) {
        *port = read_port(master, PORT_MOST - 1) + 1;
        return *port > 1 || error_set(error, "MASTER_PORT is \"%.100s\": a port from 1 to %d is wanted (the ranks meet at the next one)",
                                      master, PORT_MOST - 1);
    }
    if (!slurm && !torchrun)
        return error_set(error, "the ranks know no port to meet at: set MASTER_PORT, or give --rendezvous HOST:PORT");
    *port = slurm ? port_of_job(slurm, getenv("SLURM_STEP_ID")) : port_of_job(torchrun, NULL);
    return true;
}

bool address_find(const char *flag, char address[ADDRESS_SIZE], Error *error) {
    const char *nccl = getenv("NCCL_COMM_ID");
    char host[HOST_SIZE];
    int port = 0;
    if (flag) return take_address("--rendezvous", flag, address, error);
    if (nccl) return take_address("NCCL_COMM_ID", nccl, address, error);
    if (!find_host(host, error) || !find_port(&port, error)) return false;
    bool bare = strchr(host, ':') && host[0] != '['; /* IPv6 */
    snprintf(address, ADDRESS_SIZE, "%s%s%s:%d", bare ? "[" : "", host, bare ? "]" : "", port);
    return true;
}
