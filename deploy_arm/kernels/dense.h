/* What the dense kernels share: the same panels and pixels, by dot products (dense.c), by small matrix products (matrix.c) or of
 * floats (float_dense.c). */
#ifndef DENSE_H
#define DENSE_H

#include "neon.h"
#include "plan.h"

#define UNROLL _Pragma("GCC unroll 8")

/* A tile has P pixels x 4 V channels: with WIDE channels 1 to WIDE_PIXELS of them, with NARROW ones 1 to NARROW_PIXELS. */
#define EACH_WIDE_TILE(DO) DO(1, 4) DO(2, 4) DO(3, 4) DO(4, 4) DO(5, 4) DO(6, 4)
#define EACH_NARROW_TILE(DO) DO(1, 2) DO(2, 2) DO(3, 2) DO(4, 2) DO(5, 2) DO(6, 2) DO(7, 2) DO(8, 2)
#define NAME_TILE(P, V) tile_##P##_##V,
#define NAME_FUSED(P, V) fused_##P##_##V,

/* ``start`` is P x 4 V sums (``stride`` 4 V), or 4 V for every pixel (0). */
typedef void tile_kernel(const int8_t *source, const int32_t *places, const struct segment *segments, int32_t count, const int8_t *weights,
                         const int32_t *start, int32_t stride, int32_t *sums);

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

#endif
