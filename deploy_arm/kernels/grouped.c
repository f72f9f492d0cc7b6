/* Level-grouped convolution: for every output channel and level, add up the activations that meet that level, then multiply
 * once. Zero weights cost nothing; the price of the others does not depend on how many bits a level has.
 *
 * Activations are laid out channel by channel (planes), so that 64 neighbouring outputs of one channel are 64 neighbouring bytes
 * for every weight: a weight is then just an offset ("place") from the first of them. Rows keep their padding, so a
 * kernel's taps are constant offsets and nothing is copied per tap; the outputs computed in the padding between rows are dropped.
 * With a stride, every phase of rows and columns has planes of its own.
 *
 * Values of 7 bits are brought into -64..63: two of them are added in 8 bits before they are widened. Full bytes are widened at
 * once. A sum lies in 16 bits: a level is split into runs short enough that it cannot overflow, whatever the codebook. */
#if defined(__ARM_NEON)
#include "grouped.h"
#include "matrix.h"
#include "neon.h"

enum { PLANE_SLACK = 16 * VECTORS + SLACK };

static size_t planes_bytes(const struct plan *plan, const struct grouped *g) {
    return (g->plane * (size_t)plan->in->channels * (size_t)g->phases + PLANE_SLACK + 63) / 64 * 64;
}

/* rows[i] byte j becomes rows[j] byte i. */
static inline void transpose(uint8x16_t rows[16]) {
    uint8x16_t other[16];
    for (int stage = 0; stage < 4; stage++) { /* four perfect shuffles of rows i and i + 8 */
        for (int i = 0; i < 8; i++) {
            other[2 * i] = vzip1q_u8(rows[i], rows[i + 8]);
            other[2 * i + 1] = vzip2q_u8(rows[i], rows[i + 8]);
        }
        for (int i = 0; i < 16; i++)
            rows[i] = other[i];
    }
}

/* A band of the input as planes; ``first`` is its first row in the padded image. */
static void fill_planes(const struct plan *plan, const int8_t *in, int32_t first, uint8_t *planes) {
    const struct convolution *c = plan->convolution;
    const struct grouped *g = plan->own;
    const struct tensor *t = plan->in;
    const uint8x16_t shift = vdupq_n_u8((uint8_t)g->shift);
    const size_t channels = (size_t)t->channels;
    uint8_t padding[16];
    memset(padding, t->zero, sizeof padding);
    for (int32_t p = 0; p < g->phases; p++, planes += channels * g->plane) {
        const int32_t down = p / g->column_phases.count * c->dilation_height % c->stride_height;
        const int32_t right = p % g->column_phases.count * c->dilation_width % c->stride_width;
        for (int32_t y = 0; y < g->rows; y++) {
            int64_t row = first + (int64_t)y * c->stride_height + down - c->top;
            int inside = row >= 0 && row < t->height;
            const int8_t *line = in + (inside ? row : 0) * t->width * t->channels;
            for (size_t channel = 0; channel < channels; channel += 16) {
                size_t count = channels - channel < 16 ? channels - channel : 16;
                for (int32_t x = 0; x < g->width; x += 16) {
                    uint8x16_t rows[16];
                    for (int32_t i = 0; i < 16; i++) {
                        int64_t column = (int64_t)(x + i) * c->stride_width + right - c->left;
                        int there = inside && column >= 0 && column < t->width;
                        rows[i] = vld1q_u8(there ? (const uint8_t *)line + column * t->channels + channel : padding);
                    }
                    transpose(rows);
                    uint8_t *to = planes + channel * g->plane + (size_t)y * (size_t)g->width + (size_t)x;
                    for (size_t i = 0; i < count; i++)
                        vst1q_u8(to + i * g->plane, vsubq_u8(rows[i], shift));
                }
            }
        }
    }
}

#define UNROLL _Pragma("GCC unroll 16")

/* Sums of one output channel for 16 Q outputs whose activations begin at ``x``. */
static inline __attribute__((always_inline)) void add_runs(const int Q, const int narrow, const int8_t *x, const struct run *run,
                                                           const struct run *end, const uint16_t *step, int32_t start, int32x4_t *acc) {
    UNROLL for (int i = 0; i < 4 * Q; i++)
        acc[i] = vdupq_n_s32(start);
    for (; run < end; run++) {
        int16x8_t sum[2 * VECTORS];
        const int8_t *b = x + run->first;
        UNROLL for (int i = 0; i < 2 * Q; i++)
            sum[i] = vdupq_n_s16(0);
        for (int32_t pairs = run->count / 2; pairs; pairs--, step += 2) {
            uint32_t two; /* one load for two distances; ARM programs are little-endian */
            memcpy(&two, step, sizeof two);
            const int8_t *a = b + (uint16_t)two;
            b += two >> 16;
            UNROLL for (int q = 0; q < Q; q++) {
                int8x16_t u = vld1q_s8(a + 16 * q), v = vld1q_s8(b + 16 * q);
                if (narrow) {
                    int8x16_t both = vaddq_s8(u, v);
                    sum[2 * q] = vaddw_s8(sum[2 * q], vget_low_s8(both));
                    sum[2 * q + 1] = vaddw_high_s8(sum[2 * q + 1], both);
                } else {
                    sum[2 * q] = vaddw_s8(vaddw_s8(sum[2 * q], vget_low_s8(u)), vget_low_s8(v));
                    sum[2 * q + 1] = vaddw_high_s8(vaddw_high_s8(sum[2 * q + 1], u), v);
                }
            }
        }
        if (run->count & 1) {
            b += *step++;
            UNROLL for (int q = 0; q < Q; q++) {
                int8x16_t value = vld1q_s8(b + 16 * q);
                sum[2 * q] = vaddw_s8(sum[2 * q], vget_low_s8(value));
                sum[2 * q + 1] = vaddw_high_s8(sum[2 * q + 1], value);
            }
        }
        int16x8_t level = vdupq_n_s16((int16_t)run->level);
        UNROLL for (int i = 0; i < 2 * Q; i++) {
            acc[2 * i] = vmlal_s16(acc[2 * i], vget_low_s16(sum[i]), vget_low_s16(level));
            acc[2 * i + 1] = vmlal_high_s16(acc[2 * i + 1], sum[i], level);
        }
    }
}

/* One output channel ``o`` of a tile of 16 Q outputs: bytes to ``row``, or floats to where ``places`` say. */
static inline __attribute__((always_inline)) void channel_tile(const int Q, const int narrowed, const struct plan *plan, const int8_t *x, int32_t o,
                                                               const struct requantizer *r, int8_t *row, const int32_t *pixels, float *floats) {
    const struct grouped *g = plan->own;
    int32x4_t acc[4 * VECTORS];
    add_runs(Q, narrowed, x, g->runs + g->first_run[o], g->runs + g->first_run[o + 1], g->steps + g->first_step[o], g->start[o], acc);
    if (floats) {
        const struct finish *finish = &plan->convolution->finish;
        int32_t sums[16 * VECTORS];
        UNROLL for (int i = 0; i < 4 * Q; i++)
            vst1q_s32(sums + 4 * i, acc[i]);
        for (int i = 0; i < 16 * Q; i++) {
            if (pixels[i] < 0)
                continue;
            float product = (float)sums[i] * finish->scale[o];
            floats[(int64_t)pixels[i] * plan->out->channels + o] = product + finish->shift[o];
        }
        return;
    }
    int32x4_t multiplier = vdupq_n_s32(plan->multiplier[o]), offset = vdupq_n_s32(plan->offset[o]);
    if (plan->direct) {
        int32_t same[4];
        vst1q_s32(same, offset);
        UNROLL for (int q = 0; q < Q; q++)
            vst1q_s8(row + 16 * q, narrow_direct(r, requantize_direct(r, acc[4 * q], multiplier, same), requantize_direct(r, acc[4 * q + 1], multiplier, same),
                                                 requantize_direct(r, acc[4 * q + 2], multiplier, same), requantize_direct(r, acc[4 * q + 3], multiplier, same)));
        return;
    }
    UNROLL for (int q = 0; q < Q; q++)
        vst1q_s8(row + 16 * q, narrow(r, requantize(r, acc[4 * q], multiplier, offset), requantize(r, acc[4 * q + 1], multiplier, offset),
                                      requantize(r, acc[4 * q + 2], multiplier, offset), requantize(r, acc[4 * q + 3], multiplier, offset)));
}

typedef void channel_kernel(const struct plan *plan, const int8_t *x, int32_t o, const struct requantizer *r, int8_t *row, const int32_t *pixels,
                            float *floats);
#define CHANNEL_KERNEL(Q, narrowed)                                                                                              \
    static void channel_##Q##_##narrowed(const struct plan *plan, const int8_t *x, int32_t o, const struct requantizer *r,       \
                                         int8_t *row, const int32_t *pixels, float *floats) {                                    \
        channel_tile(Q, narrowed, plan, x, o, r, row, pixels, floats);                                                           \
    }
CHANNEL_KERNEL(1, 0)
CHANNEL_KERNEL(2, 0)
CHANNEL_KERNEL(3, 0)
CHANNEL_KERNEL(4, 0)
CHANNEL_KERNEL(1, 1)
CHANNEL_KERNEL(2, 1)
CHANNEL_KERNEL(3, 1)
CHANNEL_KERNEL(4, 1)
static channel_kernel *const channel_kernels[2][VECTORS] = {{channel_1_0, channel_2_0, channel_3_0, channel_4_0},
                                                            {channel_1_1, channel_2_1, channel_3_1, channel_4_1}};

/* Up to 16 channels x 16 outputs from ``rows`` (16 x VECTORS bytes apart) to their pixels; -1 is no pixel. */
static void store(const int8_t *rows, const int32_t *pixels, int32_t count, int64_t channels, int8_t *out) {
    uint8x16_t block[16];
    for (int i = 0; i < 16; i++)
        block[i] = vld1q_u8((const uint8_t *)rows + i * 16 * VECTORS);
    transpose(block);
    for (int i = 0; i < 16; i++) {
        if (pixels[i] < 0)
            continue;
        uint8_t *to = (uint8_t *)out + pixels[i] * channels;
        if (count == 16) {
            vst1q_u8(to, block[i]);
        } else {
            uint8_t some[16];
            vst1q_u8(some, block[i]);
            memcpy(to, some, (size_t)count);
        }
    }
}

static void run(const struct plan *plan, const struct part *part, const void *in, void *out, uint8_t *scratch) {
    const struct grouped *g = plan->own;
    const struct requantizer r = make_requantizer(&plan->convolution->finish, plan->convolution->zero);
    const int8_t *planes = (const int8_t *)scratch;
    int8_t *buffer = (int8_t *)scratch + planes_bytes(plan, g);
    int32_t *pixels = (int32_t *)(void *)(buffer + 16 * 16 * VECTORS), outs = plan->out->channels;
    memset(buffer, 0, 16 * 16 * VECTORS);
    for (int32_t row = part->row; row < part->row_end; row += plan->band) {
        int32_t rows = part->row_end - row < plan->band ? part->row_end - row : plan->band;
        int32_t vectors = (int32_t)(((int64_t)(rows - 1) * g->width + plan->out->width + 15) / 16), tiles = (vectors + VECTORS - 1) / VECTORS;
        for (int32_t i = 0, x = 0, y = 0; i < 16 * vectors; i++) {
            pixels[i] = x < plan->out->width && y < rows ? y * plan->out->width + x : -1;
            if (++x == g->width)
                x = 0, y++;
        }
        fill_planes(plan, in, row * plan->convolution->stride_height, scratch);
        int64_t element = (int64_t)row * plan->out->width * outs;
        int8_t *bytes = plan->out->floating ? NULL : (int8_t *)out + element;
        float *floats = plan->out->floating ? (float *)out + element : NULL;
        /* All outputs of 16 channels before the next ones: their places are read from memory once. */
        for (int32_t o = part->channel; o < part->channel_end; o += 16) {
            int32_t count = outs - o < 16 ? outs - o : 16;
            for (int32_t tile = 0, first = 0, last; tile < tiles; tile++, first = last) {
                last = (int32_t)((int64_t)vectors * (tile + 1) / tiles);
                channel_kernel *kernel = channel_kernels[g->narrow][last - first - 1];
                for (int32_t i = 0; i < count; i++)
                    kernel(plan, planes + 16 * first, o + i, &r, buffer + i * 16 * VECTORS, pixels + 16 * first, floats);
                for (int32_t v = first; v < last && bytes; v++)
                    store(buffer + 16 * (v - first), pixels + 16 * v, count, outs, bytes + o);
            }
        }
        add_residual(plan, part, row, rows, out);
    }
}

/* Where the compiler did not choose, by costs it knows (../costs/kernel_costs.json): so many zeros that it pays on any core, several
 * weights to a level, and a vector of outputs. */
static int likely(const struct plan *plan) {
    const struct convolution *c = plan->convolution;
    int64_t levels = 0, weights = (int64_t)plan->k * plan->out->channels, nonzero = weights - plan->zeros;
    for (int i = 0; i < 16; i++)
        levels += c->levels[i] != 0;
    return c->bits < 8 && nonzero * (matrix_pays(plan) ? 8 : 4) < weights && nonzero >= 4 * levels * plan->out->channels &&
           plan->out->height * plan->out->width >= 16;
}

static int fits(const struct plan *plan) {
    const struct convolution *c = plan->convolution;
    struct grouped geometry;
    return !plan->in->floating && c->groups == 1 && c->kernel != KERNEL_DENSE && lay_planes(plan, &geometry) &&
           (c->kernel == KERNEL_GROUPED || likely(plan));
}

static int prepare(struct plan *plan) {
    plan->whole_channels = plan->out->channels % 16 != 0;
    plan->own = grouped_make(plan);
    return plan->own != NULL;
}

static size_t scratch_bytes(const struct plan *plan) {
    const struct grouped *g = plan->own;
    return planes_bytes(plan, g) + 16 * 16 * VECTORS + 64 * (size_t)g->vectors;
}

const struct kernel grouped_kernel = {
    .name = "level-grouped", .fits = fits, .prepare = prepare, .scratch = scratch_bytes, .run = run, .free = grouped_free};
#endif
