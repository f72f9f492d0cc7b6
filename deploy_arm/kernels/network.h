/* A compiled network in five functions: open a blob, fill the input, run, read the output, close. Two more are for those who want
 * to say how much memory a network may have, and to tell a person why it could not be opened.
 *
 *   struct network *net; size_t shape[3], count;
 *   int status = network_open("weights.blob", 1, &net); if (status) return status;
 *   uint8_t *image = network_input(net, shape);   // write shape[0] * shape[1] * shape[2] bytes of pixels there
 *   network_run(net);
 *   const float *scores = network_output(net, &count); use(scores, count); network_close(net);
 *
 * Memory: a network owns everything it hands out. The pointers from network_input and network_output stay the same and
 * valid until network_close; nothing of them is freed by the caller. The file is read whole by network_open and not needed later.
 *
 * Threads: one network is used by one thread at a time, any thread. Different networks are independent of each other and may be
 * opened, run and closed at the same time. A network that shares its inferences among threads does not survive fork(); one with a
 * single thread does.
 *
 * A blob says how much memory its network needs, and a small one may ask for much. network_open allows NETWORK_DEFAULT_MEMORY and
 * refuses what needs more before it is taken; network_open_within allows what its caller says.
 *
 * Errors: only opening can fail, with a status below. Nothing here prints, exits, raises a signal or installs a handler; a
 * damaged or hostile blob is refused with a status. Passing a NULL or a closed network is not allowed except to network_close.
 *
 * These declarations and numbers do not change: what is added later has new names. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The shared library shows these functions and hides everything else. */
#define NETWORK_API __attribute__((visibility("default")))

/* What network_open and network_open_within return; the command line exits with the same numbers. */
enum network_status {
    NETWORK_OK = 0,
    NETWORK_CANNOT_READ = 3, /* no such file, or a read failed */
    NETWORK_NOT_A_BLOB = 4,  /* too short, or another magic */
    NETWORK_VERSION = 5,     /* a format version that this library does not know */
    NETWORK_CHECKSUM = 6,    /* truncated, or the checksum differs: the file was damaged */
    NETWORK_DAMAGED = 7,     /* the checksum holds, but an offset, shape or value is not allowed */
    NETWORK_MEMORY = 8,      /* not enough memory */
    NETWORK_THREADS = 11,    /* so many threads cannot be started here, or it is no number from 1 to 8 */
    NETWORK_TOO_LARGE = 12,  /* it needs more memory than is allowed */
    NETWORK_PROCESSOR = 13,  /* this processor lacks instructions that the library was compiled with */
};

/* Bytes: 1 GiB, many times what networks for these processors need. */
#define NETWORK_DEFAULT_MEMORY ((size_t)1 << 30)

struct network;

/* Reads, checks and prepares the blob at ``path``. ``threads`` (1 to 8, the caller's among them) share each inference; results are
 * the same for any number. On success *out is the network; otherwise a status above, and *out is NULL. */
NETWORK_API int network_open(const char *path, int threads, struct network **out);

/* The same with a limit of its own: ``*memory`` is the most bytes that the network may hold, its blob, activations, prepared weights
 * and all threads' scratch together. On success it becomes the bytes that it does hold; on NETWORK_TOO_LARGE what it would need, at
 * least: some is known only after more has been allowed. With any other status it stays as it is. */
NETWORK_API int network_open_within(const char *path, int threads, size_t *memory, struct network **out);

/* What a status means, in a few English words without a full stop; never NULL, also for other numbers. */
NETWORK_API const char *network_status_text(int status);

/* Where the image goes: uint8, row by row, the channels of a pixel side by side, not normalized. ``shape`` gets height, width and
 * channels; it may be NULL. Zero at first; a run does not change it. */
NETWORK_API uint8_t *network_input(struct network *network, size_t shape[3]);

/* One inference. Deterministic; allocates nothing; cannot fail. */
NETWORK_API void network_run(struct network *network);

/* The result of the last run, overwritten by the next; zeros before the first. ``count`` gets the number of floats; it may be NULL. */
NETWORK_API const float *network_output(const struct network *network, size_t *count);

/* Ends the network's threads and frees everything. NULL is allowed. */
NETWORK_API void network_close(struct network *network);

#ifdef __cplusplus
}
#endif

#endif
