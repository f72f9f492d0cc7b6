/* What one operation does to stored tensors (see blob.h for the stored form). Every operation exists in plain C
 * (portable.c), which is what it means; on ARM the functions below replace them and must agree bit for bit. */
#ifndef KERNELS_H
#define KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "blob.h"

enum {
    SLACK = 64,       /* bytes that kernels may read beyond the end of the arena or of their scratch, never use */
    DIRECT_LEAST = 16, DIRECT_MOST = 22, /* right shifts that need no rounding of their own: see plan_finish */
    PADDED_OUTS = 16, /* per-channel arrays of a plan may be read this far beyond the last channel */
    MAXIMUM_DEPTHWISE_TAPS = 1024, /* more than networks have; larger kernels are left to plain C */
};

/* Runs of consecutive bytes that one output pixel reads, relative to its first input byte. */
struct segment {
    int32_t offset; /* in the (padded) input band */
    int32_t depth;  /* bytes, a multiple of 4; those beyond ``real`` meet zero weights */
    int32_t real, k; /* true length, and the first k in the packed order */
};

/* How SMMLA finds the bytes of two neighbouring outputs side by side: per row of input, ``count`` records, each of ``bytes`` bytes
 * of the pixel at its place and as many of the pixel one stride further, 8 of each in turn. Records stand for every input pixel
 * (``by_output`` 0), or hold all that two outputs read of the row. Where the outputs' width is odd, the last of a row and
 * the first of the next are neighbours too, for whom ``extra`` records follow. */
struct pairs {
    int32_t by_output, bytes, count, extra;
    int64_t spacing, line; /* bytes of the input from record to record; of all records of a row, 0 where there are none */
};

struct grouped;

/* A convolution made ready at load. */
struct plan {
    const struct convolution *convolution;
    const struct tensor *in, *out, *residual; /* residual: what is added to the result, or NULL */
    int64_t residual_distance;                /* from a byte of the output to that of the residual, in the arena */
    enum kernel kernel;
    int32_t depth, outs, k, blocks; /* per group: input channels, output channels, products per output, 8-row blocks */
    int64_t products, zeros;        /* of the whole layer: multiply-accumulates, and weights that are zero */
    int copied;                     /* the input band is copied with its padding */
    int32_t band, band_rows;        /* output rows per band, input rows of it */
    int32_t width;                  /* of the padded input */
    int matrix;                     /* the dense kernel's products are SMMLA */
    struct pairs pairs;             /* of its input; segments are then offsets and depths in the records */
    int aligned;                    /* every segment is a whole number of packed tiles, or pairs of them for SMMLA */
    int32_t segment_count;
    int64_t read; /* bytes of all segments of a pixel */
    struct segment *segments;
    int32_t *compensation; /* per output channel: the sum starts here (-zero x sum of weights) */
    int32_t *multiplier, *offset; /* or the bits of scale and shift */
    int direct;                   /* ``offset`` holds rounding and zero too: see requantize_direct in neon.h */
    struct grouped *grouped;
    size_t scratch_bytes, prepared_bytes; /* memory while running; memory kept since load */
};

/* Fill ``plan``; 0 when memory is short. plan_free also after a failure. */
int plan_convolution(struct plan *plan, const struct convolution *convolution, const struct tensor *in,
                     const struct tensor *residual, const struct tensor *out);
void plan_free(struct plan *plan);
const char *plan_kernel_name(const struct plan *plan);

typedef void convolution_kernel(const struct plan *plan, const int8_t *in, void *out, uint8_t *scratch);
convolution_kernel portable_convolution;
size_t portable_scratch(const struct plan *plan);

/* An accumulator as a stored byte, or as ``finish`` says. */
int8_t portable_requantize(int32_t acc, const struct finish *finish, int32_t channel, int32_t zero);
void portable_put(void *out, int64_t index, uint32_t acc, const struct finish *finish, int32_t channel, int32_t zero);

void portable_add(const struct addition *by, const struct tensor *one, const struct tensor *two, const struct tensor *out,
                  const int8_t *first, const int8_t *second, int8_t *to);
/* The bytes of a whole convolution at ``out`` become the sum with its residual. */
void portable_add_residual(const struct plan *plan, int8_t *out);
void portable_multiply(const struct blob *blob, const struct operation *operation, uint8_t *arena);
void portable_layer_norm(const struct operation *operation, const struct tensor *out, const int8_t *from, void *to);
void portable_gather(const struct operation *operation, const struct tensor *in, const struct tensor *out, const int8_t *from, int8_t *to);
void portable_operation(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image);

#if defined(__ARM_NEON)
/* A part of the output: rows and channels (of a multiple of 16 on), up to but without the ends. */
struct part {
    int32_t row, row_end, channel, channel_end;
};

typedef void partial_kernel(const struct plan *plan, const struct part *part, const int8_t *in, void *out, uint8_t *scratch);
partial_kernel dense_convolution, depthwise_convolution, grouped_convolution;

/* Where part ``index`` of ``count`` of so many rows or the like begins, and the one before it ends. */
int32_t share(int32_t total, int32_t index, int32_t count);

/* Part ``index`` of ``count`` (threads) that a convolution is split into; empty where there is no more to split. */
struct part plan_part(const struct plan *plan, int32_t index, int32_t count);

size_t dense_scratch(const struct plan *plan), depthwise_scratch(const struct plan *plan);

#if defined(__ARM_FEATURE_DOTPROD)
/* Does the processor have SMMLA? */
int matrix_available(void);

/* 3 x 3 depthwise by dot products: whether it can, the packed weights, and a band of at least two rows. */
int depthwise3_fits(const struct plan *plan);
size_t depthwise3_scratch(const struct plan *plan);
void depthwise3_pack(const struct plan *plan, const int8_t *weights, int8_t *packed);
void depthwise3_band(const struct plan *plan, const struct part *part, const int8_t *source, int32_t rows, const int8_t *packed, int8_t *out);
#endif

/* Makes the plan level-grouped where that is asked for, or is likely to pay; 0 when memory is short. */
int grouped_prepare(struct plan *plan);
void grouped_free(struct grouped *grouped);

void neon_add(const struct addition *by, const struct tensor *one, const struct tensor *two, const struct tensor *out, const int8_t *first,
              const int8_t *second, int8_t *to);
/* Rows of a part, whose bytes the convolution just wrote at ``out``, become the sum with the residual, if there is one. */
void add_residual(const struct plan *plan, const struct part *part, int32_t row, int32_t rows, void *out);
void neon_multiply(const struct blob *blob, const struct operation *operation, uint8_t *arena);
/* Each does the operation if it has a vectorised form, else returns 0. */
int neon_layer_norm(const struct operation *operation, const struct tensor *out, const int8_t *from, void *to);
int neon_gather(const struct operation *operation, const struct tensor *in, const struct tensor *out, const int8_t *from, int8_t *to);

/* Rows ``row`` up to ``row_end`` of an operation that can be done row by row, else returns 0 (also for no rows). */
int neon_rows(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image, int32_t row, int32_t row_end);
/* Does the operation if there is a vectorised form of it, else returns 0. */
int neon_operation(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image);
#endif

/* The rows of a band of the input, with padding, at ``to``; ``row`` is the first row in the padded image. */
void copy_band(const struct plan *plan, const int8_t *in, int32_t row, int32_t rows, int8_t *to);

/* Index into ``divisors`` for an average pool's output; the loader has checked that it is there. */
int32_t divisor_index(const struct pool *pool, int32_t row, int32_t column);

#endif
