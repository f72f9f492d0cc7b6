/* The inside of a network, for the command line and the fuzzer. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include "blob.h"
#include "kernels.h"
#include "network.h"
#include "threads.h"

struct network {
    struct blob blob;
    uint8_t *file, *memory, *arena, *image, *scratch; /* arena and scratch are parts of ``memory`` */
    size_t scratch_bytes, prepared_bytes;
    struct plan **plans; /* by operation; NULL where it is no convolution */
    struct threads *threads; /* NULL: one thread */
    int32_t thread_count;
    uint8_t *more_scratch; /* of the other threads, each ``scratch_room`` bytes */
    size_t scratch_room;
    int portable;        /* plain C instead of the kernels */
    int32_t part;        /* without ``threads``, only what thread ``part`` of ``thread_count`` would do is done: to count it */
    int copy_image;      /* some operation other than an input table reads the image */
};

/* As network_open from ``bytes`` of ``file`` (from malloc; owned by the network from here on, also on failure). When not NULL,
 * ``reason`` gets a static text and ``operation`` the operation that is wrong or -1. */
int network_open_memory(uint8_t *file, size_t bytes, struct network **out, const char **reason, int32_t *operation);

/* Read a whole file into memory from malloc. */
int network_read_file(const char *path, uint8_t **file, size_t *bytes);

/* How many threads share an inference from now on, 1 (as opened from memory) to 8. NETWORK_THREADS or NETWORK_MEMORY when they
 * cannot be started: then it is one again. */
int network_set_threads(struct network *network, int count);

/* As network_run, calling ``mark(i)`` before operation i and ``mark(number of operations)`` after the last. */
void network_run_marked(struct network *network, void (*mark)(int32_t operation));

#endif
