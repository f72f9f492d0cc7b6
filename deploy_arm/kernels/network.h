/* A compiled network: open a blob, fill the input, run, read the output, close.
 *
 *   struct network *net; size_t bytes, count; int status = network_open("weights.blob", &net); if (status) return status;
 *   memcpy(network_input(net, &bytes), image, bytes); network_run(net);              // image: uint8, height x width x channels
 *   const float *scores = network_output(net, &count); use(scores, count); network_close(net);
 *
 * A network is used by one thread at a time; several networks are independent. Nothing here prints or exits. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stddef.h>
#include <stdint.h>

/* What network_open returns; the command line exits with the same numbers. */
enum network_status {
    NETWORK_OK = 0,
    NETWORK_CANNOT_READ = 3, /* no such file, or a read failed */
    NETWORK_NOT_A_BLOB = 4,  /* too short, or another magic */
    NETWORK_VERSION = 5,     /* a format version that this program does not know */
    NETWORK_CHECKSUM = 6,    /* truncated, or the checksum differs: the file was damaged */
    NETWORK_DAMAGED = 7,     /* the checksum holds, but an offset, shape or value is not allowed */
    NETWORK_MEMORY = 8,      /* not enough memory */
    NETWORK_THREADS = 11,    /* threads cannot be started here, or not so many */
};

struct network;

/* Read, check and prepare a blob. On success *out is the network; otherwise a status above and *out is NULL. */
int network_open(const char *path, struct network **out);

/* Where the image goes: uint8, height x width x channels, *bytes of them. Kept between runs. */
uint8_t *network_input(struct network *network, size_t *bytes);

/* How many threads share an inference from now on, 1 (as opened) to 8. Results are the same for any number. NETWORK_THREADS or
 * NETWORK_MEMORY when they cannot be started: then it is one again. */
int network_set_threads(struct network *network, int count);

/* One inference. Deterministic, allocates nothing. */
void network_run(struct network *network);

/* The result of the last run: *count floats, valid until the next run. */
const float *network_output(const struct network *network, size_t *count);

/* Free everything. NULL is allowed. */
void network_close(struct network *network);

#endif
