/* Dense convolution by SMMLA, where the processor has it: 2 pixels x 2 channels x 8 k at a time, twice the products of a dot product.
 * Compiled into every program with dot products and chosen when it runs. */
#if defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
#include "dense.h"

#include <sys/auxv.h>

#define MATRIX __attribute__((target("+i8mm")))

enum { CAPABILITIES_2 = 26, HAS_I8MM = 1 << 13 }; /* AT_HWCAP2 and HWCAP2_I8MM of Linux */

int matrix_available(void) { return (getauxval(CAPABILITIES_2) & HAS_I8MM) != 0; }

void matrix_arrange(const struct segment *segments, int32_t count, int32_t width, const int8_t *from, int8_t *to) {
    const int32x4_t zero = vdupq_n_s32(0);
    for (; count; count--, segments++)
        for (int32_t left = segments->depth; left > 0; left -= 8, from += (left > -4 ? 8 : 4) * width)
            for (int32_t i = 0; i < width / 4; i++, to += 32) {
                int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(from + 16 * i));
                int32x4_t b = left > 4 ? vreinterpretq_s32_s8(vld1q_s8(from + 4 * width + 16 * i)) : zero;
                vst1q_s8(to, vreinterpretq_s8_s32(vzip1q_s32(a, b)));
                vst1q_s8(to + 16, vreinterpretq_s8_s32(vzip2q_s32(a, b)));
            }
}

static inline int32x4_t lower(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

static inline int32x4_t upper(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

/* acc[q][v]: pixels 2 q and 2 q + 1 of channels 2 v and 2 v + 1. */
#define MULTIPLY(x)                                                  \
    UNROLL for (int v = 0; v < 2 * V; v++) {                         \
        int8x16_t w = vld1q_s8(weights + 16 * v);                    \
        UNROLL for (int q = 0; q < P / 2; q++)                       \
            acc[q][v] = vmmlaq_s32(acc[q][v], x[q], w);              \
    }                                                                \
    weights += 32 * V;

MATRIX static inline __attribute__((always_inline)) void multiply(const int P, const int V, int32x4_t acc[4][8], const int8_t *source,
                                                                  const int32_t *places, const struct segment *segments, int32_t count,
                                                                  const int8_t *weights) {
    const int8_t *pixels[8];
    int8x16_t low[4], high[4];
    UNROLL for (int p = 0; p < P; p++)
        pixels[p] = source + places[p];
    for (; count; count--, segments++) {
        int64_t at = segments->offset, end = at + segments->depth;
        for (; at + 16 <= end; at += 16) {
            UNROLL for (int q = 0; q < P / 2; q++) {
                int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(pixels[2 * q] + at)), b = vreinterpretq_s32_s8(vld1q_s8(pixels[2 * q + 1] + at));
                low[q] = vreinterpretq_s8_s32(lower(a, b));
                high[q] = vreinterpretq_s8_s32(upper(a, b));
            }
            MULTIPLY(low)
            MULTIPLY(high)
        }
        for (; at < end; at += 8) { /* what is read beyond the end meets zero */
            UNROLL for (int q = 0; q < P / 2; q++)
                low[q] = vcombine_s8(vld1_s8(pixels[2 * q] + at), vld1_s8(pixels[2 * q + 1] + at));
            MULTIPLY(low)
        }
    }
}

MATRIX static inline __attribute__((always_inline)) void tile(const int P, const int V, const int8_t *source, const int32_t *places,
                                                              const struct segment *segments, int32_t count, const int8_t *weights,
                                                              const int32_t *start, int32_t stride, int32_t *sums) {
    int32x4_t acc[4][8];
    UNROLL for (int q = 0; q < P / 2; q++)
        UNROLL for (int v = 0; v < V; v++) {
            int32x4_t a = vld1q_s32(start + 2 * q * stride + 4 * v), b = vld1q_s32(start + (2 * q + 1) * stride + 4 * v);
            acc[q][2 * v] = lower(a, b);
            acc[q][2 * v + 1] = upper(a, b);
        }
    multiply(P, V, acc, source, places, segments, count, weights);
    UNROLL for (int q = 0; q < P / 2; q++)
        UNROLL for (int v = 0; v < V; v++) {
            vst1q_s32(sums + (2 * q) * 4 * V + 4 * v, lower(acc[q][2 * v], acc[q][2 * v + 1]));
            vst1q_s32(sums + (2 * q + 1) * 4 * V + 4 * v, upper(acc[q][2 * v], acc[q][2 * v + 1]));
        }
}

/* P pixels, or for ``pixels`` < P one less: then the last place must be there, but is not stored. */
MATRIX static inline __attribute__((always_inline)) void fused(const int P, const int V, const struct work *w, const int32_t *start, int32_t pixels,
                                                               int8_t *out) {
    const struct work job = *w;
    const struct requantizer r = job.requantizer;
    const int64_t stride = job.stride;
    for (int32_t first = 0; first < pixels; first += P) {
        int32x4_t acc[4][8];
        UNROLL for (int q = 0; q < P / 2; q++)
            UNROLL for (int v = 0; v < 2 * V; v++)
                acc[q][v] = again(start + 4 * v);
        multiply(P, V, acc, job.source, job.places + first, job.segments, job.segment_count, job.weights);
        int32x4_t multiplier[4];
        UNROLL for (int v = 0; v < V; v++)
            multiplier[v] = vld1q_s32(job.multiplier + 4 * v);
        UNROLL for (int q = 0; q < P / 2; q++, out += 2 * stride) {
            int32x4_t a[4], b[4];
            UNROLL for (int v = 0; v < V; v++) {
                a[v] = requantize_direct(&r, lower(acc[q][2 * v], acc[q][2 * v + 1]), multiplier[v], job.offset + 4 * v);
                b[v] = requantize_direct(&r, upper(acc[q][2 * v], acc[q][2 * v + 1]), multiplier[v], job.offset + 4 * v);
            }
            int there = first + 2 * q + 1 < pixels;
            if (V == 4) {
                vst1q_s8(out, narrow_direct(&r, a[0], a[1], a[2], a[3]));
                if (there)
                    vst1q_s8(out + stride, narrow_direct(&r, b[0], b[1], b[2], b[3]));
            } else {
                int8x16_t bytes = narrow_direct(&r, a[0], a[1], b[0], b[1]);
                vst1_s8(out, vget_low_s8(bytes));
                if (there)
                    vst1_s8(out + stride, vget_high_s8(bytes));
            }
        }
    }
}

typedef void tile_kernel(const int8_t *source, const int32_t *places, const struct segment *segments, int32_t count, const int8_t *weights,
                         const int32_t *start, int32_t stride, int32_t *sums);
typedef void fused_kernel(const struct work *w, const int32_t *start, int32_t pixels, int8_t *out);

#define KERNELS(P, V)                                                                                                               \
    MATRIX static void tile_##P##_##V(const int8_t *source, const int32_t *places, const struct segment *segments, int32_t count,   \
                                      const int8_t *weights, const int32_t *start, int32_t stride, int32_t *sums) {                 \
        tile(P, V, source, places, segments, count, weights, start, stride, sums);                                                  \
    }                                                                                                                               \
    MATRIX static void fused_##P##_##V(const struct work *w, const int32_t *start, int32_t pixels, int8_t *out) {                   \
        fused(P, V, w, start, pixels, out);                                                                                         \
    }
KERNELS(2, 4)
KERNELS(4, 4)
KERNELS(6, 4)
KERNELS(2, 2)
KERNELS(4, 2)
KERNELS(6, 2)
KERNELS(8, 2)
static tile_kernel *const wide_tiles[] = {tile_2_4, tile_4_4, tile_6_4}, *const narrow_tiles[] = {tile_2_2, tile_4_2, tile_6_2, tile_8_2};
static fused_kernel *const wide_fused[] = {fused_2_4, fused_4_4, fused_6_4}, *const narrow_fused[] = {fused_2_2, fused_4_2, fused_6_2, fused_8_2};

/* The last of an odd number of places twice. */
static const int32_t *even_places(const int32_t *places, int32_t pixels, int32_t *room) {
    if (pixels % 2 == 0)
        return places;
    for (int32_t i = 0; i <= pixels; i++)
        room[i] = places[i < pixels ? i : pixels - 1];
    return room;
}

void matrix_tile(int32_t width, int32_t pixels, const int8_t *source, const int32_t *places, const struct segment *segments, int32_t count,
                 const int8_t *weights, const int32_t *start, int32_t stride, int32_t *sums) {
    int32_t room[NARROW_PIXELS + 1];
    places = even_places(places, pixels, room);
    (width == WIDE ? wide_tiles : narrow_tiles)[(pixels + 1) / 2 - 1](source, places, segments, count, weights, start, stride, sums);
}

void matrix_fused(int32_t width, const struct work *w, int32_t pixels, int8_t *out) {
    int32_t start[2 * WIDE], room[NARROW_PIXELS + 1], step = width == WIDE ? WIDE_PIXELS : NARROW_PIXELS, whole = pixels / step * step;
    for (int32_t i = 0; i < 2 * width; i++)
        start[i] = w->start[i / 4 * 2 + i % 2]; /* two channels, for two pixels */
    fused_kernel *const *kernels = width == WIDE ? wide_fused : narrow_fused;
    kernels[step / 2 - 1](w, start, whole, out);
    if (pixels == whole)
        return;
    struct work rest = *w;
    rest.places = even_places(w->places + whole, pixels - whole, room);
    kernels[(pixels - whole + 1) / 2 - 1](&rest, start, pixels - whole, out + whole * w->stride);
}
#endif
