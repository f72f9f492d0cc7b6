/* Convolution of which whole blocks of weights, QUAD output channels x OCTET input channels of one tap, are zero and not there: a
 * tile of four output channels x up to 16 pixels in registers runs through the blocks that are kept.
 *
 * At load every kept block gets the distance of its activations from a pixel's first, so that the inner loop is without branches: a
 * distance, a block's two vectors of weights, 8 bytes of each pixel. For small matrix products these are the records of pairs of
 * pixels (matrix.c). Weights of four channels are decoded once per band of rows. */
#if defined(__ARM_NEON)
#include "matrix.h"
#include "neon.h"
#include "plan.h"
#include "unpack.h"

#include <stdlib.h>

#define UNROLL _Pragma("GCC unroll 16")

struct blocks {
    int32_t *offsets; /* of all kept blocks, those of four channels after those of the four before */
    int32_t *first;   /* by four channels, and the end */
    int32_t most;     /* that four channels have */
};

/* Tiles of four output channels: bytes of plans that are direct, or sums for others. */
struct quad {
    const int8_t *source, *weights;
    const int32_t *places, *offsets, *start, *multiplier, *offset;
    int32_t count, *sums;
    int64_t stride; /* of the output: its channels */
    struct requantizer requantizer;
};

typedef void quad_kernel(const struct quad *job, int32_t pixels, int8_t *out);

/* acc[p]: four channels of pixel p. */
static inline __attribute__((always_inline)) void multiply(const int P, const struct quad *job, const int32_t *places, int32x4_t acc[BLOCK_PIXELS]) {
    const int8_t *pixels[BLOCK_PIXELS], *weights = job->weights;
    const int32x4_t start = vld1q_s32(job->start);
    UNROLL for (int p = 0; p < P; p++) {
        pixels[p] = job->source + places[p];
        acc[p] = start;
    }
    for (const int32_t *offset = job->offsets, *end = offset + job->count; offset < end; weights += TILE) {
        const int64_t at = *offset++;
        const int8x16_t low = vld1q_s8(weights), high = vld1q_s8(weights + 16);
        UNROLL for (int p = 0; p < P; p++) {
            const int8x8_t x = vld1_s8(pixels[p] + at);
            acc[p] = DOT_HALF(acc[p], low, x, 0);
            acc[p] = DOT_HALF(acc[p], high, x, 1);
        }
    }
}

/* Sums of P pixels to their bytes, of which ``count`` are stored, or as they are. */
static inline __attribute__((always_inline)) void finish(const int P, const struct quad *job, int32x4_t acc[BLOCK_PIXELS], int32_t count, int8_t *out) {
    if (job->sums) {
        UNROLL for (int p = 0; p < P; p++)
            vst1q_s32(job->sums + 4 * p, acc[p]);
        return;
    }
    const struct requantizer r = job->requantizer;
    const int32x4_t multiplier = vld1q_s32(job->multiplier);
    UNROLL for (int p = 0; p < P; p += 4, count -= 4, out += 4 * job->stride) {
        UNROLL for (int q = p; q < p + 4; q++)
            acc[q] = requantize_direct(&r, acc[q], multiplier, job->offset);
        const int32x4_t bytes = vreinterpretq_s32_s8(narrow_direct(&r, acc[p], acc[p + 1], acc[p + 2], acc[p + 3]));
        vst1q_lane_s32((int32_t *)(void *)out, bytes, 0);
        if (count > 1)
            vst1q_lane_s32((int32_t *)(void *)(out + job->stride), bytes, 1);
        if (count > 2)
            vst1q_lane_s32((int32_t *)(void *)(out + 2 * job->stride), bytes, 2);
        if (count > 3)
            vst1q_lane_s32((int32_t *)(void *)(out + 3 * job->stride), bytes, 3);
    }
}

/* Whole tiles; only the last, of a band's last pixels, may have fewer pixels that are stored. */
static inline __attribute__((always_inline)) void tiles(const int P, const struct quad *given, int32_t pixels, int8_t *out) {
    const struct quad job = *given; /* which no store can change */
    for (const int32_t *places = job.places; pixels > 0; pixels -= P, places += P, out += P * job.stride) {
        int32x4_t acc[BLOCK_PIXELS];
        multiply(P, &job, places, acc);
        finish(P, &job, acc, P == BLOCK_PIXELS ? P : pixels, out);
    }
}

#define TILES(P) \
    static void tiles_##P(const struct quad *job, int32_t pixels, int8_t *out) { tiles(P, job, pixels, out); }
TILES(4)
TILES(8)
TILES(12)
TILES(16)
static quad_kernel *const dot_tiles[] = {tiles_4, tiles_8, tiles_12, tiles_16};

#if defined(__ARM_FEATURE_DOTPROD)
/* The same by SMMLA: acc[q][v] has pixels 2 q and 2 q + 1 of channels 2 v and 2 v + 1. */
MATRIX static inline __attribute__((always_inline)) void matrix_tiles(const int P, const struct quad *given, int32_t pixels, int8_t *out) {
    const struct quad job = *given;
    for (const int32_t *places = job.places; pixels > 0; pixels -= P, places += P / 2, out += P * job.stride) {
        const int8_t *pairs[BLOCK_PIXELS / 2], *weights = job.weights;
        const int32x4_t start = vld1q_s32(job.start);
        int32x4_t acc[BLOCK_PIXELS / 2][2], sums[BLOCK_PIXELS];
        UNROLL for (int q = 0; q < P / 2; q++) {
            pairs[q] = job.source + places[q];
            acc[q][0] = lower(start, start), acc[q][1] = upper(start, start);
        }
        for (const int32_t *offset = job.offsets, *end = offset + job.count; offset < end; weights += TILE) {
            const int64_t at = *offset++;
            const int8x16_t low = vld1q_s8(weights), high = vld1q_s8(weights + 16);
            UNROLL for (int q = 0; q < P / 2; q++) {
                const int8x16_t x = vld1q_s8(pairs[q] + at);
                acc[q][0] = vmmlaq_s32(acc[q][0], x, low);
                acc[q][1] = vmmlaq_s32(acc[q][1], x, high);
            }
        }
        UNROLL for (int q = 0; q < P / 2; q++)
            sums[2 * q] = lower(acc[q][0], acc[q][1]), sums[2 * q + 1] = upper(acc[q][0], acc[q][1]);
        finish(P, &job, sums, P == BLOCK_PIXELS ? P : pixels, out);
    }
}

#define MATRIX_TILES(P) \
    MATRIX static void matrix_tiles_##P(const struct quad *job, int32_t pixels, int8_t *out) { matrix_tiles(P, job, pixels, out); }
MATRIX_TILES(4)
MATRIX_TILES(8)
MATRIX_TILES(12)
MATRIX_TILES(16)
static quad_kernel *const pair_tiles[] = {matrix_tiles_4, matrix_tiles_8, matrix_tiles_12, matrix_tiles_16};
#endif

/* Where things lie in the scratch memory. */
struct layout {
    size_t band, pairs, places, weights, bytes;
};

static struct layout lay_out(const struct plan *plan) {
    const struct blocks *own = plan->own;
    struct layout l = {.bytes = 0};
    l.band = make_room(&l.bytes, plan->copied ? (size_t)plan->band_rows * (size_t)plan->width * (size_t)plan->in->channels : 0);
    l.pairs = make_room(&l.bytes, (size_t)plan->band_rows * (size_t)plan->pairs.line);
    l.places = make_room(&l.bytes, (size_t)plan->band * (size_t)plan->out->width * sizeof(int32_t));
    l.weights = make_room(&l.bytes, (size_t)own->most * TILE);
    return l;
}

/* The kept blocks of four channels, as the products want them. */
static void decode(const struct plan *plan, size_t first, size_t count, int8_t *weights) {
    if (plan->matrix)
        unpack_tiles(plan->convolution, first, count, weights, TILE);
    else
        unpack_halves(plan->convolution, first, count, weights);
}

/* The sums of some pixels, where they do not become bytes in registers. */
static void finish_sums(const struct plan *plan, const int32_t *sums, int32_t pixels, int32_t channel, void *out) {
    const struct finish *f = &plan->convolution->finish;
    const struct requantizer r = make_requantizer(f, plan->convolution->zero);
    const int32x4_t multiplier = vld1q_s32(plan->multiplier + channel), offset = vld1q_s32(plan->offset + channel);
    int32_t bytes[4];
    for (int32_t p = 0; p < pixels; p++, sums += QUAD) {
        const int64_t element = (int64_t)p * plan->out->channels + channel;
        if (plan->out->floating) {
            for (int32_t i = 0; i < QUAD; i++) {
                float product = (float)sums[i] * f->scale[channel + i];
                ((float *)out)[element + i] = product + f->shift[channel + i];
            }
            continue;
        }
        if (p % 4 == 0) { /* tiles are whole fours */
            int32x4_t t[4];
            UNROLL for (int i = 0; i < 4; i++)
                t[i] = requantize(&r, vld1q_s32(sums + QUAD * i), multiplier, offset);
            vst1q_s32(bytes, vreinterpretq_s32_s8(narrow(&r, t[0], t[1], t[2], t[3])));
        }
        memcpy((int8_t *)out + element, bytes + p % 4, QUAD);
    }
}

/* Four output channels of the pixels of a band. */
static void quad(const struct plan *plan, const struct quad *given, int32_t pixels, int32_t channel, void *out) {
    struct quad job = *given;
    quad_kernel *const *kernels = dot_tiles;
#if defined(__ARM_FEATURE_DOTPROD)
    if (plan->matrix)
        kernels = pair_tiles;
#endif
    const int32_t whole = plan->direct ? pixels / BLOCK_PIXELS * BLOCK_PIXELS : 0, step = plan->matrix ? 2 : 1;
    int32_t sums[BLOCK_PIXELS * QUAD], some[BLOCK_PIXELS];
    if (whole)
        kernels[BLOCK_PIXELS / 4 - 1](&job, whole, (int8_t *)out + channel);
    for (int32_t p = whole; p < pixels; p += BLOCK_PIXELS) { /* what is left, or all of them one tile at a time */
        const int32_t count = pixels - p < BLOCK_PIXELS ? pixels - p : BLOCK_PIXELS, there = (count + step - 1) / step;
        for (int32_t i = 0; i < BLOCK_PIXELS / step; i++) /* the last once more where none are left */
            some[i] = given->places[p / step + (i < there ? i : there - 1)];
        job.places = some;
        job.sums = plan->direct ? NULL : sums;
        kernels[(count + 3) / 4 - 1](&job, count, plan->direct ? (int8_t *)out + (int64_t)p * job.stride + channel : (int8_t *)sums);
        if (!plan->direct)
            finish_sums(plan, sums, count, channel, (uint8_t *)out + (int64_t)p * job.stride * (plan->out->floating ? 4 : 1));
    }
}

static void run(const struct plan *plan, const struct part *part, const void *in, void *out, uint8_t *scratch) {
    const struct blocks *own = plan->own;
    const struct layout l = lay_out(plan);
    int32_t *places = (int32_t *)(void *)(scratch + l.places);
    int8_t *weights = (int8_t *)scratch + l.weights;
#if defined(__ARM_FEATURE_DOTPROD)
    if (plan->matrix)
        matrix_places(plan, places);
    else
#endif
        plan_places(plan, places);
    for (int32_t row = part->row; row < part->row_end; row += plan->band) {
        const struct band band = plan_band(plan, part, row, in, scratch + l.band);
        const int64_t element = (int64_t)row * plan->out->width * plan->out->channels;
        struct quad job = {.source = (const int8_t *)band.source, .weights = weights, .places = places, .stride = plan->out->channels,
                           .requantizer = make_requantizer(&plan->convolution->finish, plan->convolution->zero)};
#if defined(__ARM_FEATURE_DOTPROD)
        if (plan->matrix) {
            matrix_pack(plan, job.source, band.lines, (int8_t *)scratch + l.pairs);
            job.source = (int8_t *)scratch + l.pairs;
        }
#endif
        for (int32_t channel = part->channel; channel < part->channel_end; channel += QUAD) {
            const int32_t first = own->first[channel / QUAD];
            job.count = own->first[channel / QUAD + 1] - first;
            job.offsets = own->offsets + first;
            job.start = plan->compensation + channel, job.multiplier = plan->multiplier + channel, job.offset = plan->offset + channel;
            decode(plan, (size_t)first, (size_t)job.count, weights);
            quad(plan, &job, band.rows * plan->out->width, channel, (uint8_t *)out + element * (plan->out->floating ? 4 : 1));
        }
        add_residual(plan, part, row, band.rows, out);
    }
}

static void free_blocks(void *given) {
    struct blocks *own = given;
    if (!own)
        return;
    free(own->offsets);
    free(own->first);
    free(own);
}

/* The lists; 0 when memory is short. */
static int prepare(struct plan *plan) {
    const struct convolution *c = plan->convolution;
    const struct pairs *p = &plan->pairs;
    const int32_t count = blocks_of(c, plan->in->channels), quads = plan->outs / QUAD, deep = plan->depth / OCTET;
    const size_t offsets = ((size_t)c->kept_blocks + 1) * sizeof(int32_t), first = ((size_t)quads + 1) * sizeof(int32_t);
    struct blocks *own = calloc(1, sizeof *own);
    plan->own = own;
    if (!own || !(own->offsets = malloc(offsets)) || !(own->first = malloc(first)))
        return 0;
    plan->prepared_bytes += sizeof *own + offsets + first;
    const int64_t down = plan->matrix ? p->line : (int64_t)plan->width * plan->in->channels, double_up = plan->matrix ? 2 : 1;
    const int64_t across = !plan->matrix || p->by_output ? plan->in->channels : p->bytes;
    int32_t found = 0;
    for (int32_t quad = 0; quad < quads; quad++) {
        own->first[quad] = found;
        for (int32_t block = 0; block < count; block++) {
            if (!is_kept(c, quad, block, count))
                continue;
            const int32_t tap = block / deep, i = tap / c->kernel_width, j = tap % c->kernel_width;
            own->offsets[found++] = (int32_t)(i * c->dilation_height * down + double_up * (j * c->dilation_width * across + block % deep * OCTET));
        }
        if (found - own->first[quad] > own->most)
            own->most = found - own->first[quad];
    }
    own->first[quads] = found;
    return 1;
}

static int fits(const struct plan *plan) { return plan->convolution->kept != NULL; }

static size_t scratch(const struct plan *plan) { return lay_out(plan).bytes; }

const struct kernel block_kernel = {.name = "blocks", .fits = fits, .prepare = prepare, .scratch = scratch, .run = run, .free = free_blocks};

#if defined(__ARM_FEATURE_DOTPROD)
static int fits_matrix(const struct plan *plan) { return fits(plan) && matrix_fits(plan); }

static int prepare_matrix(struct plan *plan) { return matrix_prepare(plan) && prepare(plan); }

const struct kernel block_matrix_kernel = {
    .name = "blocks matrix", .fits = fits_matrix, .prepare = prepare_matrix, .scratch = scratch, .run = run, .free = free_blocks};
#endif
#endif
