/* Depthwise float convolution: 4 channels at a time, 4 pixels of a row side by side. Sums keep the order of float_portable.c. */
#if defined(__ARM_NEON)
#include <string.h>

#include "dense.h"
#include "floats.h"

static void store_some(float *to, float32x4_t value, int32_t count) {
    float some[4];
    vst1q_f32(some, value);
    memcpy(to, some, (size_t)count * sizeof(float));
}

/* The work of a row of depthwise outputs. */
struct row {
    const float *weights, *bias;
    int64_t channels, line, across; /* floats from pixel to pixel, from row to row, and from an output's input to the next's */
    const struct segment *segments;
    int32_t taps, first, end; /* channels from ``first`` on */
    float32x4_t low, high;
};

/* Channels from ``channel`` on, four or (not ``whole``) what is left of them. */
static inline __attribute__((always_inline)) void store_pixels(const int P, const int whole, const struct row *r, const float32x4_t *acc, float *to,
                                                               int64_t channel) {
    UNROLL for (int p = 0; p < P; p++) {
        float32x4_t value = limit_vector(acc[p], r->low, r->high);
        if (whole)
            vst1q_f32(to + p * r->channels + channel, value);
        else
            store_some(to + p * r->channels + channel, value, (int32_t)(r->channels - channel));
    }
}

static inline __attribute__((always_inline)) void any_taps(const int P, const int whole, const struct row *r, const float *from, float *to,
                                                           int64_t channel) {
    const float *weights = r->weights + channel * r->taps;
    float32x4_t acc[4];
    UNROLL for (int p = 0; p < P; p++)
        acc[p] = vld1q_f32(r->bias + channel);
    for (int32_t tap = 0; tap < r->taps; tap++, weights += 4) {
        float32x4_t w = vld1q_f32(weights);
        const float *x = from + r->segments[tap].offset + channel;
        UNROLL for (int p = 0; p < P; p++)
            acc[p] = vfmaq_f32(acc[p], w, vld1q_f32(x + p * r->across));
    }
    store_pixels(P, whole, r, acc, to, channel);
}

/* 3 x 3 taps side by side: a column that several pixels see is loaded once. */
static inline __attribute__((always_inline)) void three_taps(const int P, const int stride, const int whole, const struct row *r, const float *from,
                                                             float *to, int64_t channel) {
    const float *weights = r->weights + channel * 9, *line = from + channel;
    float32x4_t acc[4], x[9];
    UNROLL for (int p = 0; p < P; p++)
        acc[p] = vld1q_f32(r->bias + channel);
    UNROLL for (int i = 0; i < 3; i++, line += r->line, weights += 12) {
        _Pragma("GCC unroll 9") for (int j = 0; j < (P - 1) * stride + 3; j++)
            x[j] = vld1q_f32(line + j * r->channels);
        UNROLL for (int j = 0; j < 3; j++) {
            float32x4_t w = vld1q_f32(weights + 4 * j);
            UNROLL for (int p = 0; p < P; p++)
                acc[p] = vfmaq_f32(acc[p], w, x[p * stride + j]);
        }
    }
    store_pixels(P, whole, r, acc, to, channel);
}

/* P pixels side by side; ``stride`` 0: any taps, else 3 x 3. */
static inline __attribute__((always_inline)) void pixels(const int P, const int stride, const struct row *given, const float *from, float *to) {
    const struct row r = *given; /* which no store can change */
    int64_t channel = r.first;
    for (; channel + 4 <= r.end; channel += 4)
        stride ? three_taps(P, stride, 1, &r, from, to, channel) : any_taps(P, 1, &r, from, to, channel);
    if (channel < r.end)
        stride ? three_taps(P, stride, 0, &r, from, to, channel) : any_taps(P, 0, &r, from, to, channel);
}

static void depthwise_row(const struct plan *plan, const struct row *r, const float *from, float *to) {
    const struct convolution *c = plan->convolution;
    int three = c->kernel_height == 3 && c->kernel_width == 3 && c->dilation_height == 1 && c->dilation_width == 1;
    int stride = three && c->stride_width <= 2 ? c->stride_width : 0;
    int32_t x = 0;
    for (; x + 4 <= plan->out->width; x += 4, from += 4 * r->across, to += 4 * r->channels) {
        if (stride == 1)
            pixels(4, 1, r, from, to);
        else if (stride == 2)
            pixels(4, 2, r, from, to);
        else
            pixels(4, 0, r, from, to);
    }
    for (; x < plan->out->width; x++, from += r->across, to += r->channels) {
        if (stride)
            pixels(1, 1, r, from, to);
        else
            pixels(1, 0, r, from, to);
    }
}

static void depthwise_rows(const struct plan *plan, const struct part *part, const float *source, int32_t rows, float *to) {
    const struct convolution *c = plan->convolution;
    struct row r = {.weights = (const float *)(const void *)c->packed, .bias = (const float *)(const void *)plan->offset};
    r.channels = plan->out->channels, r.line = (int64_t)plan->width * r.channels, r.across = c->stride_width * r.channels;
    r.segments = plan->segments, r.taps = plan->segment_count;
    r.first = part->channel, r.end = part->channel_end;
    r.low = vdupq_n_f32(c->low), r.high = vdupq_n_f32(c->high);
    for (int32_t y = 0; y < rows; y++)
        depthwise_row(plan, &r, source + y * c->stride_height * r.line, to + (int64_t)y * plan->out->width * r.channels);
}

static void run(const struct plan *plan, const struct part *part, const void *in, void *out, uint8_t *scratch) {
    for (int32_t row = part->row; row < part->row_end; row += plan->band) {
        const struct band band = plan_band(plan, part, row, in, scratch);
        float *to = (float *)out + (int64_t)row * plan->out->width * plan->out->channels;
        depthwise_rows(plan, part, (const float *)(const void *)band.source, band.rows, to);
    }
}

static int prepare(struct plan *plan) {
    plan->whole_channels = plan->out->channels % 16 != 0;
    return 1;
}

const struct kernel float_depthwise_kernel = {
    .name = "float depthwise", .fits = is_float_depthwise, .prepare = prepare, .scratch = float_band_bytes, .run = run};
#endif
