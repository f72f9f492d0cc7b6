/* Dense convolution: a tile of 16 (or 8) output channels x up to 6 (or 8) pixels in registers.
 *
 * Weights of the channels are decoded once per band of rows into scratch, 4 k of each channel side by side. Activations are
 * read where they are: the inner loop loads 16 consecutive bytes of every pixel's segment and uses them lane by lane, so
 * nothing is rearranged; only padding makes a copy of the band. Loads per multiplication are those of an arranged panel.
 * For small matrix products (matrix.c) 8 k of each channel lie side by side, and pixels in pairs. */
#if defined(__ARM_NEON)
#include "dense.h"
#include "matrix.h"
#include "unpack.h"

/* One group of 4 k: V vectors of weights (4 channels each) times lane ``lane`` of every pixel. */
#define MULTIPLY(lane)                                          \
    UNROLL for (int v = 0; v < V; v++) {                        \
        int8x16_t w = vld1q_s8(weights + ((lane)*V + v) * 16);  \
        UNROLL for (int p = 0; p < P; p++)                      \
            acc[p][v] = DOT(acc[p][v], w, x[p], lane);          \
    }

/* The products of all segments; ``places`` are those of P pixels in ``source``. */
static inline __attribute__((always_inline)) void multiply(const int P, const int V, int32x4_t acc[8][4], const int8_t *source, const int32_t *places,
                                                           const struct segment *segments, int32_t count, const int8_t *weights) {
    const int8_t *pixels[8];
    int8x16_t x[8];
    UNROLL for (int p = 0; p < P; p++)
        pixels[p] = source + places[p];
    for (; count; count--, segments++) {
        int64_t at = segments->offset, end = at + segments->depth;
        for (; at + 16 <= end; at += 16) {
            UNROLL for (int p = 0; p < P; p++)
                x[p] = vld1q_s8(pixels[p] + at);
            MULTIPLY(0)
            MULTIPLY(1)
            MULTIPLY(2)
            MULTIPLY(3)
            weights += 64 * V;
        }
        if (at == end)
            continue;
        UNROLL for (int p = 0; p < P; p++) /* 4, 8 or 12 of these are used: SLACK allows for the others */
            x[p] = vld1q_s8(pixels[p] + at);
        MULTIPLY(0)
        if (end - at >= 8) {
            MULTIPLY(1)
        }
        if (end - at >= 12) {
            MULTIPLY(2)
        }
        weights += (end - at) * 4 * V;
    }
}

/* ``start`` is P x 4 V sums (``stride`` 4 V), or 4 V for every pixel (0). */
static inline __attribute__((always_inline)) void tile(const int P, const int V, const int8_t *source, const int32_t *places,
                                                       const struct segment *segments, int32_t count, const int8_t *weights, const int32_t *start,
                                                       int32_t stride, int32_t *sums) {
    int32x4_t acc[8][4];
    UNROLL for (int p = 0; p < P; p++)
        UNROLL for (int v = 0; v < V; v++)
            acc[p][v] = vld1q_s32(start + p * stride + 4 * v);
    multiply(P, V, acc, source, places, segments, count, weights);
    UNROLL for (int p = 0; p < P; p++)
        UNROLL for (int v = 0; v < V; v++)
            vst1q_s32(sums + p * 4 * V + 4 * v, acc[p][v]);
}

/* Whole tiles of a band. */
static inline __attribute__((always_inline)) void fused(const int P, const int V, const struct work *w, int32_t pixels, int8_t *out) {
    const struct work job = *w;
    const struct requantizer r = job.requantizer;
    w = &job; /* which no store can change */
    for (int32_t first = 0; first + P <= pixels; first += P) {
        int32x4_t acc[8][4];
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int v = 0; v < V; v++)
                acc[p][v] = again(w->start + 4 * v);
        multiply(P, V, acc, w->source, w->places + first, w->segments, w->segment_count, w->weights);
        int32x4_t multiplier[4];
        UNROLL for (int v = 0; v < V; v++)
            multiplier[v] = vld1q_s32(w->multiplier + 4 * v);
        UNROLL for (int p = 0; p < P; p += V == 4 ? 1 : 2, out += (V == 4 ? 1 : 2) * w->stride) {
            int last = V == 2 && p + 1 < P ? p + 1 : p; /* 8 channels: two pixels make a vector */
            UNROLL for (int q = p; q <= last; q++)
                UNROLL for (int v = 0; v < V; v++)
                    acc[q][v] = requantize_direct(&r, acc[q][v], multiplier[v], w->offset + 4 * v);
            if (V == 4) {
                vst1q_s8(out, narrow_direct(&r, acc[p][0], acc[p][1], acc[p][2], acc[p][3]));
                continue;
            }
            int8x16_t bytes = narrow_direct(&r, acc[p][0], acc[p][1], acc[last][0], acc[last][1]);
            vst1_s8(out, vget_low_s8(bytes));
            if (last > p)
                vst1_s8(out + w->stride, vget_high_s8(bytes));
        }
    }
}

#define TILE_KERNEL(P, V)                                                                                                    \
    static void tile_##P##_##V(const int8_t *source, const int32_t *places, const struct segment *segments, int32_t count,   \
                               const int8_t *weights, const int32_t *start, int32_t stride, int32_t *sums) {                 \
        tile(P, V, source, places, segments, count, weights, start, stride, sums);                                           \
    }                                                                                                                        \
    static void fused_##P##_##V(const struct work *w, int32_t pixels, int8_t *out) { fused(P, V, w, pixels, out); }
EACH_WIDE_TILE(TILE_KERNEL)
EACH_NARROW_TILE(TILE_KERNEL)
typedef void fused_kernel(const struct work *w, int32_t pixels, int8_t *out);
static tile_kernel *const wide_tiles[] = {EACH_WIDE_TILE(NAME_TILE)}, *const narrow_tiles[] = {EACH_NARROW_TILE(NAME_TILE)};
static fused_kernel *const wide_fused[] = {EACH_WIDE_TILE(NAME_FUSED)}, *const narrow_fused[] = {EACH_NARROW_TILE(NAME_FUSED)};

/* Sums [pixels][4 V] of channels from ``channel`` on to bytes; ``count`` of the channels exist. */
static inline __attribute__((always_inline)) void finish_bytes(const int V, const struct plan *plan, const int32_t *sums, int32_t pixels,
                                                               int32_t channel, int32_t count, int8_t *out) {
    const struct requantizer r = make_requantizer(&plan->convolution->finish, plan->convolution->zero);
    int32x4_t multiplier[4], offset[4], t[4];
    UNROLL for (int v = 0; v < V; v++) {
        multiplier[v] = vld1q_s32(plan->multiplier + channel + 4 * v);
        offset[v] = vld1q_s32(plan->offset + channel + 4 * v);
    }
    t[2] = t[3] = vdupq_n_s32(0);
    for (; pixels; pixels--, sums += 4 * V, out += plan->out->channels) {
        UNROLL for (int v = 0; v < V; v++)
            t[v] = plan->direct ? requantize_direct(&r, vld1q_s32(sums + 4 * v), multiplier[v], plan->offset + channel + 4 * v)
                                : requantize(&r, vld1q_s32(sums + 4 * v), multiplier[v], offset[v]);
        int8x16_t bytes = plan->direct ? narrow_direct(&r, t[0], t[1], t[2], t[3]) : narrow(&r, t[0], t[1], t[2], t[3]);
        if (count == 16 && V == 4) {
            vst1q_s8(out, bytes);
        } else if (count == 8 && V == 2) {
            vst1_s8(out, vget_low_s8(bytes));
        } else {
            int8_t some[16];
            vst1q_s8(some, bytes);
            memcpy(out, some, (size_t)count);
        }
    }
}

static void finish_floats(const struct plan *plan, const int32_t *sums, int32_t stride, int32_t pixels, int32_t channel, int32_t count,
                          float *out) {
    const float *scale = plan->convolution->finish.scale + channel, *shift = plan->convolution->finish.shift + channel;
    for (; pixels; pixels--, sums += stride, out += plan->out->channels)
        for (int32_t i = 0; i < count; i++) {
            float product = (float)sums[i] * scale[i];
            out[i] = product + shift[i];
        }
}

/* Where things lie in the scratch memory. */
struct layout {
    size_t band, pairs, places, panel, block, sums, bytes;
};

static struct layout lay_out(const struct plan *plan) {
    struct layout l = {.bytes = 0};
    const size_t pixels = (size_t)plan->band * (size_t)plan->out->width;
    l.band = make_room(&l.bytes, plan->copied ? (size_t)plan->band_rows * (size_t)plan->width * (size_t)plan->in->channels : 0);
    l.pairs = make_room(&l.bytes, (size_t)plan->band_rows * (size_t)plan->pairs.line);
    l.places = make_room(&l.bytes, pixels * sizeof(int32_t));
    l.panel = make_room(&l.bytes, (size_t)CHUNK_DEPTH * WIDE);
    l.block = make_room(&l.bytes, plan->aligned ? 0 : decoded_bytes(plan) * 2);
    l.sums = make_room(&l.bytes, (plan->read > CHUNK_DEPTH ? pixels : 0) * WIDE * sizeof(int32_t));
    return l;
}

/* Weights of ``count`` segments for one of ``blocks`` blocks of 8 channels: 4 k of each, or 8, then those of the next block. */
static void decode_block(const struct plan *plan, size_t block, const struct segment *segments, int32_t count, int8_t *out, size_t blocks,
                         int8_t *temporary) {
    const int32_t unit = plan->matrix ? PAIRED : 4;
    const size_t stride = blocks * 8 * (size_t)unit;
    size_t depth = ((size_t)plan->k + 3) / 4;
    if (plan->aligned) { /* segments without a gap are consecutive tiles */
        for (int32_t next; count; count -= next, segments += next) {
            for (next = 1; next < count && segments[next].k == segments[next - 1].k + segments[next - 1].depth; next++)
                ;
            const struct segment *last = segments + next - 1;
            size_t first = (size_t)segments->k / 4, tiles = (size_t)(last->k + last->depth) / 4 - first;
            if (plan->matrix)
                unpack_pairs(plan->convolution, block * depth + first, tiles / 2, out, stride);
            else
                unpack_tiles(plan->convolution, block * depth + first, tiles, out, stride);
            out += tiles / (plan->matrix ? 2 : 1) * stride;
        }
        return;
    }
    int8_t *rows = temporary + depth * TILE; /* the weights of each channel one after the other */
    unpack_tiles(plan->convolution, block * depth, depth, temporary, TILE);
    for (size_t i = 0; i < depth; i++)
        for (size_t o = 0; o < 8; o++)
            memcpy(rows + (o * depth + i) * 4, temporary + i * TILE + o * 4, 4);
    for (; count; count--, segments++)
        for (int32_t i = 0; i < segments->depth; i += unit, out += stride)
            for (size_t o = 0; o < 8; o++) {
                int32_t left = segments->real - i;
                int8_t some[8]; /* what lies beyond the segment must be zero */
                memcpy(some, rows + o * depth * 4 + segments->k + i, 8);
                for (int32_t j = left < 0 ? 0 : left; j < unit; j++)
                    some[j] = 0;
                if (unit == 8)
                    memcpy(out + o * 8, some, 8);
                else
                    memcpy(out + o * 4, some, 4);
            }
}

/* One panel of output channels over the pixels of a band, some segments at a time. */
static void panel(const struct plan *plan, const struct layout *l, uint8_t *scratch, const int8_t *source, int32_t pixels, int32_t group,
                  int32_t first, void *out, int32_t wide) {
    const int32_t *places = (const int32_t *)(const void *)(scratch + l->places);
    int32_t *kept = (int32_t *)(void *)(scratch + l->sums), sums[WIDE_PIXELS * WIDE];
    int8_t *weights = (int8_t *)scratch + l->panel;
    int32_t width = wide ? WIDE : NARROW, step = wide ? WIDE_PIXELS : NARROW_PIXELS, channel = group * plan->outs + first;
    int32_t channels = plan->outs - first < width ? plan->outs - first : width;
    size_t block = (size_t)group * (size_t)plan->blocks + (size_t)first / 8;
    for (int32_t s = 0, next; s < plan->segment_count; s = next) {
        int32_t depth = 0;
        for (next = s; next < plan->segment_count && depth + plan->segments[next].depth <= CHUNK_DEPTH; next++)
            depth += plan->segments[next].depth;
        for (int32_t b = 0; b < width / 8; b++)
            decode_block(plan, block + (size_t)b, plan->segments + s, next - s, weights + b * (plan->matrix ? 2 : 1) * TILE, (size_t)width / 8,
                         (int8_t *)scratch + l->block);
        int last = next == plan->segment_count;
        if (!s && last && plan->direct && channels == width) {
            struct work w = {source, weights, places, plan->segments, plan->segment_count, plan->compensation + channel,
                             plan->multiplier + channel, plan->offset + channel, make_requantizer(&plan->convolution->finish, plan->convolution->zero), plan->out->channels};
#if defined(__ARM_FEATURE_DOTPROD)
            if (plan->matrix) {
                matrix_fused(width, &w, pixels, (int8_t *)out + channel);
                return;
            }
#endif
            int32_t whole = pixels / step * step;
            (wide ? wide_fused : narrow_fused)[step - 1](&w, whole, (int8_t *)out + channel);
            w.places += whole;
            if (pixels > whole)
                (wide ? wide_fused : narrow_fused)[pixels - whole - 1](&w, pixels - whole, (int8_t *)out + (int64_t)whole * w.stride + channel);
            return;
        }
        for (int32_t p = 0; p < pixels; p += step) {
            int32_t count = pixels - p < step ? pixels - p : step;
            const int32_t *start = s ? kept + (int64_t)p * width : plan->compensation + channel;
            int32_t *to = last ? sums : kept + (int64_t)p * width;
#if defined(__ARM_FEATURE_DOTPROD)
            if (plan->matrix)
                matrix_tile(width, count, source, places + p / 2, plan->segments + s, next - s, weights, start, s ? width : 0, to);
            else
#endif
            (wide ? wide_tiles : narrow_tiles)[count - 1](source, places + p, plan->segments + s, next - s, weights, start, s ? width : 0, to);
            if (!last)
                continue;
            int64_t element = (int64_t)p * plan->out->channels + channel;
            if (plan->out->floating)
                finish_floats(plan, sums, width, count, channel, channels, (float *)out + element);
            else if (wide)
                finish_bytes(4, plan, sums, count, channel, channels, (int8_t *)out + element);
            else
                finish_bytes(2, plan, sums, count, channel, channels, (int8_t *)out + element);
        }
    }
}

static void run(const struct plan *plan, const struct part *part, const void *in, void *out, uint8_t *scratch) {
    const struct convolution *c = plan->convolution;
    const struct layout l = lay_out(plan);
    int32_t *places = (int32_t *)(void *)(scratch + l.places);
    const int32_t width = plan->out->width;
#if defined(__ARM_FEATURE_DOTPROD)
    if (plan->matrix)
        matrix_places(plan, places);
    else
#endif
        plan_places(plan, places);
    for (int32_t row = part->row; row < part->row_end; row += plan->band) {
        const struct band band = plan_band(plan, part, row, in, scratch + l.band);
        int64_t element = (int64_t)row * width * plan->out->channels;
        void *to = (uint8_t *)out + element * (plan->out->floating ? 4 : 1);
        for (int32_t group = 0; group < c->groups; group++) {
            const int8_t *from = (const int8_t *)band.source + (int64_t)group * plan->depth;
#if defined(__ARM_FEATURE_DOTPROD)
            if (plan->matrix) {
                matrix_pack(plan, from, band.lines, (int8_t *)scratch + l.pairs);
                from = (int8_t *)scratch + l.pairs;
            }
#endif
            for (int32_t first = c->groups > 1 ? 0 : part->channel, end = c->groups > 1 ? plan->outs : part->channel_end; first < end;) {
                int32_t wide = end - first > NARROW;
                panel(plan, &l, scratch, from, band.rows * width, group, first, to, wide);
                first += wide ? WIDE : NARROW;
            }
        }
        add_residual(plan, part, row, band.rows, out);
    }
}

static int fits(const struct plan *plan) { return !plan->in->floating && !plan->convolution->depthwise; }

static size_t scratch(const struct plan *plan) { return lay_out(plan).bytes; }

const struct kernel dense_kernel = {.name = "dense", .fits = fits, .scratch = scratch, .run = run};
#if defined(__ARM_FEATURE_DOTPROD)
const struct kernel matrix_kernel = {
    .name = "dense matrix", .fits = matrix_fits, .prepare = matrix_prepare, .scratch = scratch, .run = run};
#endif
#endif
