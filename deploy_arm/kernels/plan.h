/* A convolution made ready at load (a plan), what a kernel for it is (one row of the table in convolution.c), and what kernels
 * share. A kernel's file knows this header, and no other kernel. */
#ifndef PLAN_H
#define PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "blob.h"
#include "tiling.h"

enum {
    SLACK = 64,       /* bytes that kernels may read beyond the end of the arena or of their scratch, never use */
    DIRECT_LEAST = 16, DIRECT_MOST = 22, /* right shifts that need no rounding of their own: see requantize_direct in neon.h */
    PADDED_OUTS = 16, /* per-channel arrays of a plan may be read this far beyond the last channel */
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

struct kernel;

struct plan {
    const struct convolution *convolution;
    const struct tensor *in, *out, *residual; /* residual: what is added to the result, or NULL */
    int64_t residual_distance;                /* from a byte of the output to that of the residual, in the arena */
    const struct kernel *kernel, *plain;      /* the chosen one, and the one in plain C */
    int32_t depth, outs, k, blocks; /* per group: input channels, output channels, products per output, 8-row blocks */
    int64_t products, zeros;        /* of the whole layer: multiply-accumulates, and weights that are zero */
    uint64_t taps;                  /* bit i: some weight of tap i is not zero; all bits, where they are not looked at */
    int copied;                     /* the input band is copied with its padding */
    int32_t band, band_rows;        /* output rows per band, input rows of it */
    int32_t width;                  /* of the padded input */
    int whole_channels;             /* parts (threads) take rows, with all channels */
    int matrix;                     /* the dense kernel's products are SMMLA */
    struct pairs pairs;             /* of its input; segments are then offsets and depths in the records */
    int aligned;                    /* every segment is a whole number of packed tiles, or pairs of them for SMMLA */
    int32_t segment_count;
    int64_t read; /* bytes of all segments of a pixel */
    struct segment *segments;
    int32_t *compensation; /* per output channel: the sum starts here (-zero x sum of weights) */
    int32_t *multiplier, *offset; /* or the bits of scale and shift */
    int direct;                   /* ``offset`` holds rounding and zero too: see requantize_direct in neon.h */
    void *own;                    /* what the kernel prepared for itself, or NULL */
    size_t scratch_bytes, prepared_bytes; /* memory while running; memory kept since load */
};

/* A part of the output: rows and channels (of a multiple of 16 on), up to but without the ends. */
struct part {
    int32_t row, row_end, channel, channel_end;
};

/* All ways to compute a convolution give the same bits. */
struct kernel {
    const char *name; /* as a profile shows it */
    int plain;        /* in plain C, which is what the others mean; it does whole outputs only */
    /* Can it compute the plan, and is it asked for, or likely to be the fastest of the rows that follow? */
    int (*fits)(const struct plan *plan);
    /* Completes the plan; 0 when memory is short. NULL: nothing is missing. */
    int (*prepare)(struct plan *plan);
    /* Bytes that a thread needs while it runs. NULL: none. */
    size_t (*scratch)(const struct plan *plan);
    /* ``in`` and ``out`` are the whole tensors; ``scratch`` is aligned to 64. */
    void (*run)(const struct plan *plan, const struct part *part, const void *in, void *out, uint8_t *scratch);
    /* Frees ``own``, also after a failure. NULL: there is nothing. */
    void (*free)(void *own);
};

/* convolution.c: fill ``plan`` and choose its kernel; 0 when memory is short. plan_free also after a failure. */
int plan_convolution(struct plan *plan, const struct convolution *convolution, const struct tensor *in,
                     const struct tensor *residual, const struct tensor *out);
void plan_free(struct plan *plan);

/* plan.c: all of a plan but its kernel; 0 when memory is short. */
int plan_start(struct plan *plan, const struct convolution *convolution, const struct tensor *in,
               const struct tensor *residual, const struct tensor *out);

/* Output rows of a band, and the input rows that they read. */
struct bands {
    int32_t rows, lines;
};

/* As many rows as fit BAND_BYTES with their padded input and ``more`` bytes for each of its rows; at least one. */
struct bands plan_bands(const struct plan *plan, int64_t more);

/* Do neighbouring taps of a kernel row lie side by side in memory? */
int taps_are_merged(const struct plan *plan);

/* The segments of the plan's input, or of its pairs; 0 when memory is short. */
int plan_segments(struct plan *plan);

/* Bytes of the weights decoded: of all of a depthwise convolution, else of a block of 8 channels. */
size_t decoded_bytes(const struct plan *plan);

/* Where part ``index`` of ``count`` of so many rows or the like begins, and the one before it ends. */
int32_t share(int32_t total, int32_t index, int32_t count);

/* Part ``index`` of ``count`` (threads) that a convolution is split into; empty where there is no more to split. */
struct part plan_part(const struct plan *plan, int32_t index, int32_t count);

/* The rows of a part that are worked on together, and the input that they read. */
struct band {
    int32_t rows, lines; /* of output, and of padded input */
    const uint8_t *source;
};

/* The band whose first output row is ``row``; where the plan says so, its input is copied to ``copy`` with padding. */
struct band plan_band(const struct plan *plan, const struct part *part, int32_t row, const void *in, void *copy);

/* Where the inputs of a band's outputs begin, in elements. */
void plan_places(const struct plan *plan, int32_t *places);

/* The place of ``bytes`` more in scratch memory that is ``*end`` long so far. */
static inline size_t make_room(size_t *end, size_t bytes) {
    size_t at = *end;
    *end += (bytes + SLACK + 63) / 64 * 64;
    return at;
}

/* addition.c: the bytes of a whole convolution at ``out`` become the sum with its residual. */
void portable_add_residual(const struct plan *plan, int8_t *out);
#if defined(__ARM_NEON)
/* Rows of a part, whose bytes the convolution just wrote at ``out``, become the sum with the residual, if there is one. */
void add_residual(const struct plan *plan, const struct part *part, int32_t row, int32_t rows, void *out);
#endif

#endif
