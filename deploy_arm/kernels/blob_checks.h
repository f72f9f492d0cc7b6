/* What the checks of a file share: blob.c for its tables, and each operation's own. */
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

static inline int same_shape(const struct tensor *one, const struct tensor *two) {
    return one->height == two->height && one->width == two->width && one->channels == two->channels;
}

static inline int lie_apart(const struct tensor *one, const struct tensor *two) {
    return one->offset + one->bytes <= two->offset || two->offset + two->bytes <= one->offset;
}

/* Does a table give values of ``out``'s range for every byte that ``in`` can hold? */
int table_fits(const uint8_t *table, const struct tensor *in, const struct tensor *out);

/* Bytes or floats move unchanged from ``in`` to ``out``. */
int same_range(const struct tensor *in, const struct tensor *out);

/* ``finish`` with its arrays set: shifts and limits (left, right, low, high), and that the arrays' values are allowed. */
int check_requantize(struct blob *blob, struct finish *finish, const struct tensor *out, int64_t count, const int32_t *numbers);

/* A whole one: its kind, where its two arrays lie, and ``numbers`` as above. */
int check_finish(struct blob *blob, struct finish *finish, const struct tensor *out, int32_t kind, int32_t first, int32_t second,
                 int64_t count, const int32_t *numbers);

/* ``numbers``: two multipliers, right, low, high. */
int check_addition(struct blob *blob, struct addition *addition, const struct tensor *in, const struct tensor *second,
                   const struct tensor *out, const int32_t *numbers);

/* The windows of a pooling (words 4 and 5), which must lie in the input. */
int check_windows(struct blob *blob, struct operation *operation, const int32_t *word);

/* Two words as limits, which are numbers in order; minus zero becomes zero, as the kernels need. */
int check_limits(struct blob *blob, float *low, float *high, const int32_t *word);

/* Word 4 as the number of listed tensors, which lie side by side in the output, and word 5 as where their records of ``size`` words
 * lie, each with the tensor first. All of bytes, or all of floats. */
int check_list(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written, int32_t size, int floating);

#endif
