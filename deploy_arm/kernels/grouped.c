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
#include <stdlib.h>

#include "neon.h"
#include "unpack.h"

enum {
    VECTORS = 4, /* of 16 outputs each, at most, at a time */
    RUN_7 = 510, /* 510 x 64 <= 32767 */
    RUN_8 = 254, /* 254 x 128 <= 32767 */
    MOST_PHASES = 4096,
    PLANE_SLACK = 16 * VECTORS + SLACK,
};

/* ``count`` weights of one level. The first lies ``first`` bytes from the outputs' first activation. Weights are taken in pairs, a
 * single one at the end; both of a pair have their distance from the last of the pair before (of the first pair: from the first
 * weight), so that an address waits for one addition per pair. A level has several runs where a sum would not fit or a distance not. */
struct run {
    int32_t level, count;
    uint32_t first;
};

/* The phases of a kernel's taps along one axis: that of tap i is i x dilation modulo the stride, so tap ``period`` has that of
 * tap 0 again, and the phases are those of the first ``count`` taps. */
struct cycle {
    int32_t period, count;
};

struct grouped {
    struct run *runs;   /* of all output channels, one after the other */
    uint16_t *steps;    /* of all runs: distances between places */
    int32_t *first_run; /* by output channel, and the end */
    uint32_t *first_step;
    int32_t *start; /* by output channel: where the sum begins */
    int narrow;     /* activations fit 7 bits */
    int32_t shift;  /* taken from stored activations */
    struct cycle row_phases, column_phases;
    int32_t phases;      /* of rows x of columns, the columns' faster */
    int32_t rows, width; /* of a plane */
    int32_t vectors;     /* of outputs in a full band */
    size_t plane;        /* bytes from channel to channel */
};

static struct cycle cycle_of(int32_t taps, int32_t dilation, int32_t stride) {
    int32_t a = stride, b = dilation % stride;
    while (b) { /* the greatest common divisor */
        int32_t rest = a % b;
        a = b, b = rest;
    }
    return (struct cycle){stride / a, taps < stride / a ? taps : stride / a};
}

/* The planes' geometry; 0 when there are too many phases. */
static int lay_planes(const struct plan *plan, struct grouped *g) {
    const struct convolution *c = plan->convolution;
    g->row_phases = cycle_of(c->kernel_height, c->dilation_height, c->stride_height);
    g->column_phases = cycle_of(c->kernel_width, c->dilation_width, c->stride_width);
    if ((int64_t)g->row_phases.count * g->column_phases.count > MOST_PHASES)
        return 0;
    g->phases = g->row_phases.count * g->column_phases.count;
    g->rows = plan->band + (c->kernel_height - 1) * c->dilation_height / c->stride_height;
    g->width = plan->out->width + (c->kernel_width - 1) * c->dilation_width / c->stride_width;
    g->vectors = (int32_t)(((int64_t)(plan->band - 1) * g->width + plan->out->width + 15) / 16);
    g->plane = ((size_t)g->rows * (size_t)g->width + 16 + 15) / 16 * 16; /* a row's last vector may end beyond it */
    if (g->plane % 512 == 0)
        g->plane += 64; /* or the planes would fall on few sets of the cache */
    const struct tensor *in = plan->in;
    g->narrow = (in->low >= -64 && in->high <= 63) || (in->low >= 0 && in->high <= 127);
    g->shift = g->narrow && in->high > 63 ? 64 : 0;
    return (uint64_t)g->plane * (uint64_t)in->channels * (uint64_t)g->phases <= UINT32_MAX;
}

static size_t planes_bytes(const struct plan *plan, const struct grouped *g) {
    return (g->plane * (size_t)plan->in->channels * (size_t)g->phases + PLANE_SLACK + 63) / 64 * 64;
}

/* Where the compiler did not choose, by costs it knows (../kernel_costs.json): so many zeros that it pays on any core, several
 * weights to a level, and a vector of outputs. */
static int likely(const struct plan *plan) {
    const struct convolution *c = plan->convolution;
    int64_t levels = 0, weights = (int64_t)plan->k * plan->out->channels, nonzero = weights - plan->zeros;
    for (int i = 0; i < 16; i++)
        levels += c->levels[i] != 0;
    return c->bits < 8 && nonzero * (plan->matrix ? 8 : 4) < weights && nonzero >= 4 * levels * plan->out->channels &&
           plan->out->height * plan->out->width >= 16;
}

static size_t room(const struct plan *plan) { return ((size_t)plan->k + 3) / 4 * TILE; }

/* By level, the run that is being filled. */
struct open_run {
    int32_t run, count; /* run: its index, or -1 */
    uint32_t from;      /* where distances begin */
    uint32_t step;      /* index of the next */
};

/* Runs and steps of one output channel, whose weights lie at ``weights``. Two passes: the first, without ``runs``, counts the runs of
 * each level and their weights; both go through the weights in the order of addresses, so that distances are not negative. */
static void list_channel(const struct plan *plan, const struct grouped *g, const int8_t *weights, const uint32_t *first_place, int32_t *run_count,
                         uint32_t *step_count, struct run *runs, uint16_t *steps) {
    const struct convolution *c = plan->convolution;
    const int32_t most = g->narrow ? RUN_7 : RUN_8, columns = g->column_phases.count;
    struct open_run open[256];
    int32_t used[256] = {0}, run_total[256] = {0};
    for (int pass = 0; pass < (runs ? 2 : 1); pass++) {
        int32_t next_run = *run_count;
        uint32_t next_step = *step_count;
        for (int32_t level = 0; level < 256; level++) {
            open[level] = (struct open_run){pass ? next_run - 1 : -1, most, 0, next_step};
            next_run += run_total[level];
            next_step += (uint32_t)used[level];
        }
        for (int32_t p = 0; p < g->phases; p++)
            for (int32_t d = 0; d < plan->depth; d++)
                for (int32_t i = p / columns; i < c->kernel_height; i += g->row_phases.period)
                    for (int32_t j = p % columns; j < c->kernel_width; j += g->column_phases.period) {
                        int32_t tap = i * c->kernel_width + j, k = tap * plan->depth + d;
                        uint8_t level = (uint8_t)weights[k / 4 * TILE + k % 4];
                        if (!level)
                            continue;
                        uint32_t place = (uint32_t)(((size_t)p * (size_t)plan->in->channels + (size_t)d) * g->plane) + first_place[tap];
                        struct open_run *o = &open[level];
                        int fresh = o->count == most || place - o->from > UINT16_MAX;
                        if (!pass) {
                            used[level]++;
                            run_total[level] += fresh;
                        } else {
                            if (fresh)
                                runs[++o->run] = (struct run){(int8_t)level, 0, place};
                            runs[o->run].count++;
                            steps[o->step++] = (uint16_t)(fresh ? 0 : place - o->from);
                        }
                        o->count = fresh ? 1 : o->count + 1;
                        if (fresh || o->count % 2 == 0)
                            o->from = place;
                    }
    }
    for (int32_t level = 0; level < 256; level++) {
        *run_count += run_total[level];
        *step_count += (uint32_t)used[level];
    }
}

/* 0 when memory is short. */
static int list_all(const struct plan *plan, struct grouped *g, int8_t *decoded) {
    const struct convolution *c = plan->convolution;
    int32_t runs = 0;
    uint32_t steps = 0;
    size_t depth = ((size_t)plan->k + 3) / 4;
    uint32_t *first_place = malloc((size_t)c->kernel_height * (size_t)c->kernel_width * sizeof *first_place);
    if (!first_place)
        return 0;
    for (int32_t i = 0; i < c->kernel_height; i++)
        for (int32_t j = 0; j < c->kernel_width; j++)
            first_place[i * c->kernel_width + j] =
                (uint32_t)(i * c->dilation_height / c->stride_height * g->width + j * c->dilation_width / c->stride_width);
    for (int32_t o = 0; o < plan->out->channels; o++) {
        if (o % 8 == 0)
            unpack_tiles(plan->convolution, (size_t)(o / 8) * depth, depth, decoded, TILE);
        g->first_run[o] = runs;
        g->first_step[o] = steps;
        list_channel(plan, g, decoded + o % 8 * 4, first_place, &runs, &steps, g->runs, g->steps);
    }
    g->first_run[plan->out->channels] = runs;
    g->first_step[plan->out->channels] = steps;
    free(first_place);
    return 1;
}

int grouped_prepare(struct plan *plan) {
    struct grouped *g = calloc(1, sizeof *g);
    int8_t *decoded = malloc(room(plan));
    size_t outs = (size_t)plan->out->channels;
    plan->grouped = g;
    int done = g && decoded;
    if (done && lay_planes(plan, g) && (plan->convolution->kernel == KERNEL_GROUPED || likely(plan))) {
        g->first_run = malloc((outs + 1) * sizeof *g->first_run);
        g->first_step = malloc((outs + 1) * sizeof *g->first_step);
        g->start = malloc(outs * sizeof *g->start);
        done = g->first_run && g->first_step && g->start && list_all(plan, g, decoded); /* counts */
        if (done) {
            size_t runs = (size_t)g->first_run[outs], steps = g->first_step[outs];
            g->runs = malloc((runs + 1) * sizeof *g->runs);
            g->steps = malloc((steps + 1) * sizeof *g->steps);
            done = g->runs && g->steps && list_all(plan, g, decoded);
            plan->prepared_bytes += runs * sizeof *g->runs + steps * sizeof *g->steps + outs * 12;
        }
        if (done) {
            for (size_t o = 0; o < outs; o++) {
                uint32_t sum = 0;
                for (int32_t r = g->first_run[o]; r < g->first_run[o + 1]; r++)
                    sum += (uint32_t)(g->runs[r].level * g->runs[r].count);
                g->start[o] = (int32_t)((uint32_t)plan->compensation[o] + (uint32_t)g->shift * sum);
            }
            plan->kernel = KERNEL_GROUPED;
            size_t own = planes_bytes(plan, g) + 16 * 16 * VECTORS + 64 * (size_t)g->vectors;
            plan->scratch_bytes = own > plan->scratch_bytes ? own : plan->scratch_bytes;
        }
    }
    free(decoded);
    if (plan->kernel != KERNEL_GROUPED) {
        grouped_free(g);
        plan->grouped = NULL;
    }
    return done;
}

void grouped_free(struct grouped *g) {
    if (!g)
        return;
    free(g->runs);
    free(g->steps);
    free(g->first_run);
    free(g->first_step);
    free(g->start);
    free(g);
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
    const struct grouped *g = plan->grouped;
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
    const struct grouped *g = plan->grouped;
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

void grouped_convolution(const struct plan *plan, const struct part *part, const int8_t *in, void *out, uint8_t *scratch) {
    const struct grouped *g = plan->grouped;
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
#endif
