/* What the dense kernels share: the same panels and pixels, by dot products (dense.c) or by small matrix products (matrix.c). */
#ifndef DENSE_H
#define DENSE_H

#include "neon.h"

/* CHUNK_DEPTH: decoded weights of 16 output channels, 36 KB, stay in the first-level cache; 3 x 3 x 256 of them are one chunk. */
enum { WIDE = 16, NARROW = 8, WIDE_PIXELS = 6, NARROW_PIXELS = 8, CHUNK_DEPTH = 2304 };

#define UNROLL _Pragma("GCC unroll 8")

/* A panel of a band, from the first product to the stored byte: for a direct plan whose weights fit one chunk. */
struct work {
    const int8_t *source, *weights;
    const int32_t *places; /* of the pixels in ``source``, or of pairs of them */
    const struct segment *segments;
    int32_t segment_count;
    const int32_t *start, *multiplier, *offset; /* of the first channel */
    struct requantizer requantizer;
    int64_t stride; /* of the output: its channels */
};

#if defined(__ARM_FEATURE_DOTPROD)
/* ``rows`` of a band of the input, with padding, as records of pairs. */
void matrix_pack(const struct plan *plan, const int8_t *from, int32_t rows, int8_t *to);

/* Where the records of the outputs of a band lie, two by two. */
void matrix_places(const struct plan *plan, int32_t *places);

/* ``pixels`` (at most WIDE_PIXELS or NARROW_PIXELS) x ``width`` sums as the tiles of dense.c. */
void matrix_tile(int32_t width, int32_t pixels, const int8_t *source, const int32_t *places, const struct segment *segments, int32_t count,
                 const int8_t *weights, const int32_t *start, int32_t stride, int32_t *sums);

void matrix_fused(int32_t width, const struct work *w, int32_t pixels, int8_t *out);
#endif

#endif
