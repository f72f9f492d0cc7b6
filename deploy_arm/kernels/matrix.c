/* Dense convolution by SMMLA, where the processor has it: 2 pixels x 2 channels x 8 k at a time, twice the products of a dot product.
 * Compiled into every program with dot products and chosen when it runs.
 *
 * Two neighbouring outputs are always computed together, so the band of the input is copied once with their bytes side by side (see
 * struct pairs) and read by all output channels. */
#if defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
#include "dense.h"
#include "matrix.h"

#include <sys/auxv.h>

enum { CAPABILITIES_2 = 26, HAS_I8MM = 1 << 13 }; /* AT_HWCAP2 and HWCAP2_I8MM of Linux */

static int matrix_available(void) { return (getauxval(CAPABILITIES_2) & HAS_I8MM) != 0; }

static int32_t round_up(int32_t value, int32_t unit) { return (value + unit - 1) / unit * unit; }

/* The records of the input, in the smaller of both forms. */
static struct pairs pairs_of(const struct plan *plan) {
    const struct convolution *c = plan->convolution;
    const int32_t width = plan->out->width, odd = width % 2, channels = plan->in->channels, reach = (c->kernel_width - 1) * c->dilation_width;
    struct pairs inputs = {0, round_up(plan->depth, PAIRED), width > 1 ? (width - 2) * c->stride_width + reach + 1 : 0, odd * (reach + 1), channels, 0};
    struct pairs outputs = {1, round_up(plan->depth * c->kernel_width, PAIRED), odd ? width - 1 : width / 2, odd,
                            (int64_t)c->stride_width * channels * (2 - odd), 0};
    inputs.line = 2 * (int64_t)inputs.bytes * (inputs.count + inputs.extra);
    outputs.line = 2 * (int64_t)outputs.bytes * (outputs.count + outputs.extra);
    return taps_are_merged(plan) && outputs.line <= inputs.line ? outputs : inputs;
}

int matrix_pays(const struct plan *plan) { return plan->out->height * plan->out->width > 1 && matrix_available(); }

int matrix_fits(const struct plan *plan) {
    if (plan->in->floating || plan->convolution->depthwise || !matrix_pays(plan))
        return 0;
    const struct pairs pairs = pairs_of(plan);
    return plan_bands(plan, pairs.line).lines * pairs.line <= INT32_MAX; /* or places would not fit */
}

int matrix_prepare(struct plan *plan) {
    plan->matrix = 1;
    plan->pairs = pairs_of(plan);
    const struct bands bands = plan_bands(plan, plan->pairs.line);
    plan->band = bands.rows, plan->band_rows = bands.lines;
    return plan_segments(plan);
}

static inline void put_16(const int8_t *a, const int8_t *b, int8_t *to) {
    int32x4_t first = vreinterpretq_s32_s8(vld1q_s8(a)), second = vreinterpretq_s32_s8(vld1q_s8(b));
    vst1q_s8(to, vreinterpretq_s8_s32(lower(first, second)));
    vst1q_s8(to + 16, vreinterpretq_s8_s32(upper(first, second)));
}

/* ``count`` records from ``from`` on, whose second pixels lie ``distance`` bytes further. */
static int8_t *pack_records(const struct pairs *pairs, int32_t count, int64_t spacing, const int8_t *from, int64_t distance, int8_t *to) {
    const int32_t bytes = pairs->bytes;
    for (; count; count--, from += spacing, to += 2 * bytes) {
        const int8_t *second = from + distance;
        int32_t at = 0;
        for (; at + 32 <= bytes; at += 32) {
            put_16(from + at, second + at, to + 2 * at);
            put_16(from + at + 16, second + at + 16, to + 2 * at + 32);
        }
        if (bytes & 16) {
            put_16(from + at, second + at, to + 2 * at);
            at += 16;
        }
        if (bytes & 8)
            vst1q_s8(to + 2 * at, vcombine_s8(vld1_s8(from + at), vld1_s8(second + at)));
    }
    return to;
}

void matrix_pack(const struct plan *plan, const int8_t *from, int32_t rows, int8_t *to) {
    const struct convolution *c = plan->convolution;
    const struct pairs *p = &plan->pairs;
    const int64_t line = (int64_t)plan->width * plan->in->channels, across = (int64_t)c->stride_width * plan->in->channels;
    const int64_t end = (plan->out->width - 1) * across; /* the last output of a row; the next is the first of the next row */
    for (int32_t row = 0; row < rows; row++, from += line) {
        to = pack_records(p, p->count, p->spacing, from, across, to);
        to = pack_records(p, p->extra, p->spacing, from + end, row + c->stride_height < rows ? c->stride_height * line - end : 0, to);
    }
}

void matrix_places(const struct plan *plan, int32_t *places) {
    const struct convolution *c = plan->convolution;
    const struct pairs *p = &plan->pairs;
    const int32_t width = plan->out->width, pixels = plan->band * width, record = 2 * p->bytes;
    for (int32_t i = 0; i < pixels; i += 2) {
        int32_t x = i % width, index = !p->by_output ? x * c->stride_width : width % 2 ? x : x / 2;
        *places++ = (int32_t)(i / width * c->stride_height * p->line) + record * (x == width - 1 ? p->count : index);
    }
}

/* acc[q][v]: pixels 2 q and 2 q + 1 of channels 2 v and 2 v + 1. */
#define MULTIPLY(x)                                                  \
    UNROLL for (int v = 0; v < 2 * V; v++) {                         \
        int8x16_t w = vld1q_s8(weights + 16 * v);                    \
        UNROLL for (int q = 0; q < Q; q++)                           \
            acc[q][v] = vmmlaq_s32(acc[q][v], x[q], w);              \
    }                                                                \
    weights += 32 * V;

MATRIX static inline __attribute__((always_inline)) void multiply(const int Q, const int V, int32x4_t acc[4][8], const int8_t *source,
                                                                  const int32_t *places, const struct segment *segments, int32_t count,
                                                                  const int8_t *weights) {
    for (; count; count--, segments++) {
        const int8_t *pixels[4];
        int8x16_t low[4], high[4];
        UNROLL for (int q = 0; q < Q; q++)
            pixels[q] = source + places[q] + segments->offset;
        for (uint32_t left = (uint32_t)segments->depth / 16; left; left--) {
            UNROLL for (int q = 0; q < Q; q++) {
                low[q] = vld1q_s8(pixels[q]), high[q] = vld1q_s8(pixels[q] + 16);
                pixels[q] += 32;
            }
            MULTIPLY(low)
            MULTIPLY(high)
        }
        if (segments->depth & 8) {
            UNROLL for (int q = 0; q < Q; q++)
                low[q] = vld1q_s8(pixels[q]);
            MULTIPLY(low)
        }
    }
}

MATRIX static inline __attribute__((always_inline)) void tile(const int Q, const int V, const int8_t *source, const int32_t *places,
                                                              const struct segment *segments, int32_t count, const int8_t *weights,
                                                              const int32_t *start, int32_t stride, int32_t *sums) {
    int32x4_t acc[4][8];
    UNROLL for (int q = 0; q < Q; q++)
        UNROLL for (int v = 0; v < V; v++) {
            int32x4_t a = vld1q_s32(start + 2 * q * stride + 4 * v), b = vld1q_s32(start + (2 * q + 1) * stride + 4 * v);
            acc[q][2 * v] = lower(a, b);
            acc[q][2 * v + 1] = upper(a, b);
        }
    multiply(Q, V, acc, source, places, segments, count, weights);
    UNROLL for (int q = 0; q < Q; q++)
        UNROLL for (int v = 0; v < V; v++) {
            vst1q_s32(sums + (2 * q) * 4 * V + 4 * v, lower(acc[q][2 * v], acc[q][2 * v + 1]));
            vst1q_s32(sums + (2 * q + 1) * 4 * V + 4 * v, upper(acc[q][2 * v], acc[q][2 * v + 1]));
        }
}

/* Two channels at a time, for two pixels; ``finish`` in vectors, offsets before their multipliers. */
struct doubled {
    int32_t start[2 * WIDE], finish[4 * WIDE];
};

/* The bytes of the even pairs of two vectors, or the odd ones: of one pixel, or the other. */
static inline int8x16_t every_other(int8x16_t a, int8x16_t b, int odd) {
    int16x8_t x = vreinterpretq_s16_s8(a), y = vreinterpretq_s16_s8(b);
    return vreinterpretq_s8_s16(odd ? vuzp2q_s16(x, y) : vuzp1q_s16(x, y));
}

/* 2 Q pixels at a time; with ``odd`` the last pixel is not there, and not stored. */
MATRIX static inline __attribute__((always_inline)) void fused(const int Q, const int V, const struct work *w, const struct doubled *d,
                                                               int32_t pixels, int odd, int8_t *out) {
    const struct work job = *w;
    const struct requantizer r = job.requantizer;
    const int64_t stride = job.stride;
    const int32_t *places = job.places;
    for (; pixels > 0; pixels -= 2 * Q, places += Q) {
        int32x4_t acc[4][8];
        UNROLL for (int q = 0; q < Q; q++) {
            const int32_t *start = d->start;
            UNROLL for (int v = 0; v < 2 * V; v += 2)
                again_two(&start, &acc[q][v], &acc[q][v + 1]);
        }
        multiply(Q, V, acc, job.source, places, job.segments, job.segment_count, job.weights);
        UNROLL for (int q = 0; q < Q; q++, out += 2 * stride) {
            const int32_t *finish = d->finish;
            int8x16_t bytes[2];
            UNROLL for (int v = 0; v < 2 * V; v++)
                acc[q][v] = requantize_next(&r, acc[q][v], &finish);
            UNROLL for (int h = 0; h < V / 2; h++)
                bytes[h] = narrow_direct(&r, acc[q][4 * h], acc[q][4 * h + 1], acc[q][4 * h + 2], acc[q][4 * h + 3]);
            int there = q + 1 < Q || !odd;
            if (V == 4) {
                vst1q_s8(out, every_other(bytes[0], bytes[1], 0));
                if (there)
                    vst1q_s8(out + stride, every_other(bytes[0], bytes[1], 1));
            } else {
                vst1_s8(out, vget_low_s8(every_other(bytes[0], bytes[0], 0)));
                if (there)
                    vst1_s8(out + stride, vget_low_s8(every_other(bytes[0], bytes[0], 1)));
            }
        }
    }
}

typedef void fused_kernel(const struct work *w, const struct doubled *d, int32_t pixels, int odd, int8_t *out);

#define KERNELS(Q, V)                                                                                                               \
    MATRIX static void tile_##Q##_##V(const int8_t *source, const int32_t *places, const struct segment *segments, int32_t count,   \
                                      const int8_t *weights, const int32_t *start, int32_t stride, int32_t *sums) {                 \
        tile(Q, V, source, places, segments, count, weights, start, stride, sums);                                                  \
    }                                                                                                                               \
    MATRIX static void fused_##Q##_##V(const struct work *w, const struct doubled *d, int32_t pixels, int odd, int8_t *out) {       \
        fused(Q, V, w, d, pixels, odd, out);                                                                                             \
    }
KERNELS(1, 4)
KERNELS(2, 4)
KERNELS(3, 4)
KERNELS(1, 2)
KERNELS(2, 2)
KERNELS(3, 2)
KERNELS(4, 2)
static tile_kernel *const wide_tiles[] = {tile_1_4, tile_2_4, tile_3_4}, *const narrow_tiles[] = {tile_1_2, tile_2_2, tile_3_2, tile_4_2};
static fused_kernel *const wide_fused[] = {fused_1_4, fused_2_4, fused_3_4}, *const narrow_fused[] = {fused_1_2, fused_2_2, fused_3_2, fused_4_2};

void matrix_tile(int32_t width, int32_t pixels, const int8_t *source, const int32_t *places, const struct segment *segments, int32_t count,
                 const int8_t *weights, const int32_t *start, int32_t stride, int32_t *sums) {
    (width == WIDE ? wide_tiles : narrow_tiles)[(pixels + 1) / 2 - 1](source, places, segments, count, weights, start, stride, sums);
}

void matrix_fused(int32_t width, const struct work *w, int32_t pixels, int8_t *out) {
    struct doubled d;
    int32_t step = width == WIDE ? WIDE_PIXELS : NARROW_PIXELS, whole = pixels / step * step;
    for (int32_t i = 0; i < 2 * width; i++) {
        int32_t channel = i / 4 * 2 + i % 2;
        d.start[i] = w->start[channel];
        d.finish[i / 4 * 8 + i % 4] = w->offset[channel], d.finish[i / 4 * 8 + 4 + i % 4] = w->multiplier[channel];
    }
    fused_kernel *const *kernels = width == WIDE ? wide_fused : narrow_fused;
    kernels[step / 2 - 1](w, &d, whole, 0, out);
    if (pixels == whole)
        return;
    struct work rest = *w;
    rest.places += whole / 2;
    kernels[(pixels - whole + 1) / 2 - 1](&rest, &d, pixels - whole, pixels % 2, out + whole * w->stride);
}
#endif
