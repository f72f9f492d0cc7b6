/* The inside of a network, for the command line and the fuzzer. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include "blob.h"
#include "network.h"
#include "plan.h"
#include "threads.h"

struct network {
    struct blob blob;
    uint8_t *file, *memory, *arena, *image, *scratch; /* arena and scratch are parts of ``memory`` */
    size_t scratch_bytes, prepared_bytes, memory_limit;
    struct plan **plans; /* by operation; NULL where it is no convolution */
    struct threads *threads; /* NULL: one thread */
    int32_t thread_count;
    uint8_t *more_scratch; /* of the other threads, each ``scratch_room`` bytes */
    size_t scratch_room;
    int portable;        /* plain C instead of the kernels */
    int32_t part;        /* without ``threads``, only what thread ``part`` of ``thread_count`` would do is done: to count it */
    int copy_image;      /* some operation other than an input table reads the image */
};

/* Why a blob was refused. */
struct refusal {
    const char *reason; /* a static text, or NULL */
    int32_t operation;  /* that is wrong, or -1 */
    size_t needed;      /* bytes of memory, as far as they are known; 0 where they are not */
};

/* As network_open_within with one thread, from ``bytes`` of ``file`` (from malloc; owned by the network from here on, also on
 * failure); ``limit`` is the most bytes of memory. ``refusal`` may be NULL. */
int network_open_memory(uint8_t *file, size_t bytes, size_t limit, struct network **out, struct refusal *refusal);

/* Read a whole file of at most ``limit`` bytes into memory from malloc; *bytes is its size also where that is NETWORK_TOO_LARGE. */
int network_read_file(const char *path, size_t limit, uint8_t **file, size_t *bytes);

/* What the network holds: blob, activations, image, prepared weights, scratch of all threads. */
size_t network_memory_bytes(const struct network *network);

/* How many threads share an inference from now on, 1 (as opened from memory) to 8. NETWORK_THREADS, NETWORK_MEMORY or
 * NETWORK_TOO_LARGE when they cannot be started: then it is one again. */
int network_set_threads(struct network *network, int count);

/* As network_run, calling ``mark(i)`` before operation i and ``mark(number of operations)`` after the last. */
void network_run_marked(struct network *network, void (*mark)(int32_t operation));

#endif
