/* What the two halves of the loader share: blob.c for the file and the integer operations, blob_float.c for the float ones. */
#ifndef BLOB_CHECKS_H
#define BLOB_CHECKS_H

#include "blob.h"

enum {
    HEADER_BYTES = 64,
    TENSOR_BYTES = 32,
    OPERATION_BYTES = 128,
    MAXIMUM_DIMENSION = 1 << 24,
    MAXIMUM_ELEMENTS = 1 << 28, /* of one tensor, padded too: larger ones do not belong on these machines */
    MAXIMUM_NORM = 1 << 15,     /* channels under a layer norm: its sums fit 64 bits */
    MAXIMUM_WINDOW = 1 << 16,   /* kernel, stride, dilation, padding */
    EXAMINED_LEAST = 1 << 20,   /* see examine() */
    EXAMINED_PER_BYTE = 64,
    DECODED_PER_STEP = 64, /* entries of coded weights that count as one step */
};

#define REQUIRE(condition, text)  \
    do {                          \
        if (!(condition)) {       \
            blob->reason = text;  \
            return 0;             \
        }                         \
    } while (0)

/* Operations may share data, and the loader looks at it for each of them: so that its time stays linear in the file's size, whatever
 * the file says, what it looks at is counted (in bytes, or steps), and files that want much more than their size are refused. */
static inline int examine(struct blob *blob, int64_t steps) {
    blob->examined += steps;
    REQUIRE(blob->examined <= EXAMINED_LEAST + EXAMINED_PER_BYTE * (int64_t)blob->bytes, "operations share too much data to be checked");
    return 1;
}

/* ``count`` items of ``size`` bytes at a multiple of 16 inside the file? NULL if not. They count as examined. */
static inline const void *at(struct blob *blob, int32_t offset, int64_t count, int64_t size) {
    if (offset < HEADER_BYTES || offset % 16 || count < 0 || count > (int64_t)blob->bytes / size)
        return NULL;
    if ((int64_t)offset + count * size > (int64_t)blob->bytes)
        return NULL;
    blob->examined += count * size;
    return blob->data + offset;
}

static inline int within(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }

/* Words 4 to 14 of a convolution, which must fit its tensors. */
int parse_geometry(struct blob *blob, struct operation *operation, const int32_t *word);

/* The windows of a pooling (words 4 and 5), which must lie in the input. */
int parse_pool_windows(struct blob *blob, struct operation *operation, const int32_t *word);

/* An operation whose opcode is FLOAT_INPUT or above; its inputs are there and its first two do not overlap the output. */
int parse_float(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written);

#endif
