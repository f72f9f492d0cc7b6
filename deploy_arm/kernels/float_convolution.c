/* Float convolution. A sum starts with the bias and takes its products one after the other (kernel rows, columns, input channels),
 * each with one rounding, those of the padding (zeros) too; then come the limits. The vector kernels keep that order for every
 * output, so they agree with the plain C here bit for bit.
 *
 * General: a tile of 16 (or 8) channels x up to 6 (or 8) pixels in registers, activations read where they are, 4 consecutive ones
 * of each pixel used lane by lane, as dense.c does with bytes. Weights are used as they lie in the blob: nothing is decoded.
 * Depthwise: 4 channels at a time, 4 pixels of a row side by side. */
#include "floats.h"

#include <math.h>
#include <string.h>

static int64_t panel_offset(const struct plan *plan, int32_t group, int32_t first) {
    return ((int64_t)group * ((plan->outs + 7) / 8 * 8) + first) * plan->k;
}

static int whole_depthwise(const struct plan *plan) { return plan->convolution->depthwise && plan->outs == 1; }

/* Weight k = 0 of an output channel, and how far apart its weights are. */
static const float *weights_of(const struct plan *plan, int32_t channel, int64_t *step) {
    const float *weights = (const float *)(const void *)plan->convolution->packed;
    if (whole_depthwise(plan)) {
        *step = 4;
        return weights + (int64_t)channel / 4 * 4 * plan->k + channel % 4;
    }
    int32_t inner = channel % plan->outs, first = inner / FLOAT_WIDE * FLOAT_WIDE;
    *step = plan->outs - first > FLOAT_NARROW ? FLOAT_WIDE : FLOAT_NARROW;
    return weights + panel_offset(plan, channel / plan->outs, first) + inner % FLOAT_WIDE;
}

static float sum(const struct plan *plan, const float *in, int32_t y, int32_t x, int32_t channel, const float *weights, int64_t step) {
    const struct convolution *c = plan->convolution;
    const struct tensor *t = plan->in;
    float total = c->finish.shift[channel];
    int32_t first = channel / plan->outs * plan->depth;
    for (int32_t i = 0; i < c->kernel_height; i++)
        for (int32_t j = 0; j < c->kernel_width; j++) {
            int64_t row = (int64_t)y * c->stride_height + (int64_t)i * c->dilation_height - c->top;
            int64_t column = (int64_t)x * c->stride_width + (int64_t)j * c->dilation_width - c->left;
            int inside = row >= 0 && row < t->height && column >= 0 && column < t->width;
            const float *pixel = in + (inside ? (row * t->width + column) * t->channels + first : 0);
            for (int32_t d = 0; d < plan->depth; d++, weights += step)
                total = fmaf(*weights, inside ? pixel[d] : 0.0f, total);
        }
    return total;
}

void portable_float_convolution(const struct plan *plan, const float *in, float *out) {
    const struct convolution *c = plan->convolution;
    const struct tensor *t = plan->out;
    for (int32_t o = 0; o < t->channels; o++) {
        int64_t step;
        const float *weights = weights_of(plan, o, &step);
        for (int32_t y = 0; y < t->height; y++)
            for (int32_t x = 0; x < t->width; x++)
                out[((int64_t)y * t->width + x) * t->channels + o] = limited(sum(plan, in, y, x, o, weights, step), c->low, c->high);
    }
}

#if !defined(__ARM_NEON)
void plan_float(struct plan *plan) { (void)plan; }
#else
#include "dense.h"

enum { FLOAT_CHUNK = 640 /* k whose weights, of 16 channels, stay in the first-level cache */ };

#define MULTIPLY(lane)                                                  \
    UNROLL for (int v = 0; v < V; v++) {                                \
        float32x4_t w = vld1q_f32(weights + ((lane)*V + v) * 4);        \
        UNROLL for (int p = 0; p < P; p++)                              \
            acc[p][v] = vfmaq_laneq_f32(acc[p][v], w, x[p], lane);      \
    }

static inline __attribute__((always_inline)) float32x4_t limit4(float32x4_t x, float32x4_t low, float32x4_t high) {
    return vminq_f32(vmaxq_f32(x, low), high);
}

/* The work of a tile: P pixels x 4 V channels over some segments. */
struct tile {
    const float *source, *weights, *start; /* P x 4 V sums (``start_step`` 4 V), or 4 V for every pixel (0) */
    const int32_t *places;                 /* of the pixels in ``source`` */
    const struct segment *segments;
    int32_t count;
    int64_t start_step, step; /* ``step``: of the results */
    float low, high;
};

static inline __attribute__((always_inline)) void tile(const int P, const int V, const struct tile *t, float *to) {
    float32x4_t acc[8][4], x[8];
    const float *pixels[8], *weights = t->weights;
    UNROLL for (int p = 0; p < P; p++) {
        pixels[p] = t->source + t->places[p];
        UNROLL for (int v = 0; v < V; v++)
            acc[p][v] = vld1q_f32(t->start + p * t->start_step + 4 * v);
    }
    const struct segment *segment = t->segments;
    for (int32_t left = t->count; left; left--, segment++) {
        int64_t place = segment->offset, end = place + segment->real;
        for (; place + 4 <= end; place += 4, weights += 16 * V) {
            UNROLL for (int p = 0; p < P; p++)
                x[p] = vld1q_f32(pixels[p] + place);
            MULTIPLY(0)
            MULTIPLY(1)
            MULTIPLY(2)
            MULTIPLY(3)
        }
        if (place == end)
            continue;
        UNROLL for (int p = 0; p < P; p++) /* one to three of these are used: SLACK allows for the others */
            x[p] = vld1q_f32(pixels[p] + place);
        MULTIPLY(0)
        if (end - place >= 2) {
            MULTIPLY(1)
        }
        if (end - place >= 3) {
            MULTIPLY(2)
        }
        weights += (end - place) * 4 * V;
    }
    float32x4_t low = vdupq_n_f32(t->low), high = vdupq_n_f32(t->high);
    UNROLL for (int p = 0; p < P; p++)
        UNROLL for (int v = 0; v < V; v++)
            vst1q_f32(to + p * t->step + 4 * v, limit4(acc[p][v], low, high));
}

#define TILE_KERNEL(P, V) \
    static void tile_##P##_##V(const struct tile *t, float *to) { tile(P, V, t, to); }
TILE_KERNEL(1, 4)
TILE_KERNEL(2, 4)
TILE_KERNEL(3, 4)
TILE_KERNEL(4, 4)
TILE_KERNEL(5, 4)
TILE_KERNEL(6, 4)
TILE_KERNEL(1, 2)
TILE_KERNEL(2, 2)
TILE_KERNEL(3, 2)
TILE_KERNEL(4, 2)
TILE_KERNEL(5, 2)
TILE_KERNEL(6, 2)
TILE_KERNEL(7, 2)
TILE_KERNEL(8, 2)
typedef void tile_kernel(const struct tile *t, float *to);
static tile_kernel *const wide_tiles[] = {tile_1_4, tile_2_4, tile_3_4, tile_4_4, tile_5_4, tile_6_4};
static tile_kernel *const narrow_tiles[] = {tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2, tile_6_2, tile_7_2, tile_8_2};

/* Where things lie in the scratch memory. */
struct layout {
    size_t band, places, sums, bytes;
};

static struct layout lay_out(const struct plan *plan) {
    struct layout l;
    size_t next = 0, pixels = (size_t)plan->band * (size_t)plan->out->width;
#define ROOM(field, size) l.field = next, next += ((size) + SLACK + 63) / 64 * 64
    ROOM(band, plan->copied ? (size_t)plan->band_rows * (size_t)plan->width * (size_t)plan->in->channels * sizeof(float) : 0);
    ROOM(places, pixels * sizeof(int32_t));
    ROOM(sums, (plan->k > FLOAT_CHUNK ? pixels : 0) * FLOAT_WIDE * sizeof(float));
    l.bytes = next;
    return l;
}

void plan_float(struct plan *plan) {
    plan->kernel = whole_depthwise(plan) ? KERNEL_DEPTHWISE : KERNEL_DENSE;
    plan->scratch_bytes = lay_out(plan).bytes;
}

/* One panel of output channels over the pixels of a band, some segments at a time. */
static void panel(const struct plan *plan, const struct layout *l, uint8_t *scratch, const float *source, int32_t pixels, int32_t group,
                  int32_t first, float *out, int32_t wide) {
    const struct convolution *c = plan->convolution;
    float *kept = (float *)(void *)(scratch + l->sums), some[8 * FLOAT_WIDE];
    const int32_t *places = (const int32_t *)(const void *)(scratch + l->places);
    int32_t width = wide ? FLOAT_WIDE : FLOAT_NARROW, step = wide ? WIDE_PIXELS : NARROW_PIXELS, channel = group * plan->outs + first;
    int32_t channels = plan->outs - first < width ? plan->outs - first : width;
    const float *bias = (const float *)(const void *)plan->offset + channel;
    struct tile t = {.source = source, .weights = (const float *)(const void *)c->packed + panel_offset(plan, group, first)};
    for (int32_t s = 0, next; s < plan->segment_count; s = next) {
        int32_t depth = 0;
        for (next = s; next < plan->segment_count && (next == s || depth + plan->segments[next].real <= FLOAT_CHUNK); next++)
            depth += plan->segments[next].real;
        int last = next == plan->segment_count;
        t.segments = plan->segments + s, t.count = next - s;
        t.start_step = s ? width : 0;
        t.step = last && channels == width ? plan->out->channels : width;
        t.low = last ? c->low : -INFINITY, t.high = last ? c->high : INFINITY;
        for (int32_t p = 0; p < pixels; p += step) {
            int32_t count = pixels - p < step ? pixels - p : step;
            float *to = out + (int64_t)p * plan->out->channels + channel;
            t.places = places + p;
            t.start = s ? kept + (int64_t)p * width : bias;
            (wide ? wide_tiles : narrow_tiles)[count - 1](&t, !last ? kept + (int64_t)p * width : channels == width ? to : some);
            for (int32_t i = 0; last && channels < width && i < count; i++)
                memcpy(to + (int64_t)i * plan->out->channels, some + i * width, (size_t)channels * sizeof(float));
        }
        t.weights += (int64_t)depth * width;
    }
}

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
        float32x4_t value = limit4(acc[p], r->low, r->high);
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

void float_convolution(const struct plan *plan, const struct part *part, const float *in, float *out, uint8_t *scratch) {
    const struct convolution *c = plan->convolution;
    const struct layout l = lay_out(plan);
    int32_t *places = (int32_t *)(void *)(scratch + l.places), width = plan->out->width;
    int64_t across = (int64_t)c->stride_width * plan->in->channels, down = (int64_t)c->stride_height * plan->width * plan->in->channels;
    for (int32_t i = 0; i < plan->band; i++)
        for (int32_t j = 0; j < width; j++)
            places[i * width + j] = (int32_t)(i * down + j * across);
    for (int32_t row = part->row; row < part->row_end; row += plan->band) {
        int32_t rows = part->row_end - row < plan->band ? part->row_end - row : plan->band;
        const float *source = in + (int64_t)row * down;
        float *to = out + (int64_t)row * width * plan->out->channels;
        if (plan->copied) {
            uint8_t *band = scratch + l.band;
            copy_band(plan, (const int8_t *)in, row * c->stride_height, plan->band_rows - (plan->band - rows) * c->stride_height, (int8_t *)band);
            source = (const float *)(const void *)band;
        }
        if (plan->kernel == KERNEL_DEPTHWISE) {
            depthwise_rows(plan, part, source, rows, to);
            continue;
        }
        for (int32_t group = 0; group < c->groups; group++) {
            int32_t first = c->groups > 1 ? 0 : part->channel, end = c->groups > 1 ? plan->outs : part->channel_end;
            for (; first < end; first += FLOAT_WIDE)
                panel(plan, &l, scratch, source + (int64_t)group * plan->depth, rows * width, group, first, to, plan->outs - first > FLOAT_NARROW);
        }
    }
}
#endif
