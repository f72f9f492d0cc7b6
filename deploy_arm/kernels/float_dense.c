/* Dense float convolution: a tile of 16 (or 8) channels x up to 6 (or 8) pixels in registers, activations read where they are, 4
 * consecutive ones of each pixel used lane by lane, as dense.c does with bytes. Weights are used as they lie in the blob: nothing is
 * decoded. Sums keep the order of float_portable.c. */
#if defined(__ARM_NEON)
#include <math.h>
#include <string.h>

#include "dense.h"
#include "floats.h"

#define MULTIPLY(lane)                                                  \
    UNROLL for (int v = 0; v < V; v++) {                                \
        float32x4_t w = vld1q_f32(weights + ((lane)*V + v) * 4);        \
        UNROLL for (int p = 0; p < P; p++)                              \
            acc[p][v] = vfmaq_laneq_f32(acc[p][v], w, x[p], lane);      \
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
            vst1q_f32(to + p * t->step + 4 * v, limit_vector(acc[p][v], low, high));
}

#define TILE_KERNEL(P, V) \
    static void tile_##P##_##V(const struct tile *t, float *to) { tile(P, V, t, to); }
EACH_WIDE_TILE(TILE_KERNEL)
EACH_NARROW_TILE(TILE_KERNEL)
typedef void float_tile_kernel(const struct tile *t, float *to);
static float_tile_kernel *const wide_tiles[] = {EACH_WIDE_TILE(NAME_TILE)}, *const narrow_tiles[] = {EACH_NARROW_TILE(NAME_TILE)};

/* Where things lie in the scratch memory. */
struct layout {
    size_t band, places, sums, bytes;
};

static struct layout lay_out(const struct plan *plan) {
    struct layout l = {.bytes = 0};
    const size_t pixels = (size_t)plan->band * (size_t)plan->out->width;
    l.band = make_room(&l.bytes, float_band_bytes(plan));
    l.places = make_room(&l.bytes, pixels * sizeof(int32_t));
    l.sums = make_room(&l.bytes, (plan->k > FLOAT_CHUNK ? pixels : 0) * FLOAT_WIDE * sizeof(float));
    return l;
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

static void run(const struct plan *plan, const struct part *part, const void *in, void *out, uint8_t *scratch) {
    const struct convolution *c = plan->convolution;
    const struct layout l = lay_out(plan);
    const int32_t width = plan->out->width;
    plan_places(plan, (int32_t *)(void *)(scratch + l.places));
    for (int32_t row = part->row; row < part->row_end; row += plan->band) {
        const struct band band = plan_band(plan, part, row, in, scratch + l.band);
        const float *source = (const float *)(const void *)band.source;
        float *to = (float *)out + (int64_t)row * width * plan->out->channels;
        for (int32_t group = 0; group < c->groups; group++) {
            int32_t first = c->groups > 1 ? 0 : part->channel, end = c->groups > 1 ? plan->outs : part->channel_end;
            for (; first < end; first += FLOAT_WIDE)
                panel(plan, &l, scratch, source + (int64_t)group * plan->depth, band.rows * width, group, first, to, plan->outs - first > FLOAT_NARROW);
        }
    }
}

static int fits(const struct plan *plan) { return plan->in->floating && !is_float_depthwise(plan); }

static size_t scratch(const struct plan *plan) { return lay_out(plan).bytes; }

const struct kernel float_dense_kernel = {.name = "float dense", .fits = fits, .scratch = scratch, .run = run};
#endif
