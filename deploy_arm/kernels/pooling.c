/* Maxima and averages over windows. */
#include "blob_checks.h"
#include "operations.h"
#include "requantize.h"

#include <math.h>
#include <string.h>

#if defined(__ARM_NEON)
#include "neon.h"
#endif

static int check_maximum(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    struct pool *pool = &operation->pool;
    if (!check_windows(blob, operation, word))
        return 0;
    REQUIRE(same_range(in, out), "a maximum changes the range");
    REQUIRE(within(word[6], 0, MAXIMUM_WINDOW) && within(word[7], 0, MAXIMUM_WINDOW), "a maximum's dilation is out of range");
    pool->row_step = word[6] + 1, pool->column_step = word[7] + 1;
    return 1;
}

/* How often the divisor differs from the one before, the first counted too. */
static int64_t changes(const struct window *windows, int32_t count) {
    int64_t total = 1;
    for (int32_t i = 1; i < count; i++)
        total += windows[i].divisor != windows[i - 1].divisor;
    return total;
}

static int check_average(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    struct pool *pool = &operation->pool;
    if (!check_windows(blob, operation, word))
        return 0;
    REQUIRE(!in->floating, "an average of integers reads a float tensor");
    pool->divisor_count = word[6];
    REQUIRE(within(pool->divisor_count, 1, 4096), "an average has no divisors, or too many");
    pool->divisors = at(blob, word[7], pool->divisor_count, 4);
    REQUIRE(pool->divisors, "an average's divisors lie outside the file");
    /* Where a neighbour has the same divisor there is nothing new to look up. */
    int64_t pairs = changes(pool->rows, out->height) * changes(pool->columns, out->width);
    if (!examine(blob, pairs * pool->divisor_count))
        return 0;
    for (int32_t i = 0; i < out->height; i++) {
        if (i && pool->rows[i].divisor == pool->rows[i - 1].divisor)
            continue;
        for (int32_t j = 0; j < out->width; j++) {
            if (j && pool->columns[j].divisor == pool->columns[j - 1].divisor)
                continue;
            int64_t product = (int64_t)pool->rows[i].divisor * pool->columns[j].divisor;
            int32_t d = 0;
            while (d < pool->divisor_count && pool->divisors[d] != product)
                d++;
            REQUIRE(d < pool->divisor_count, "an average's divisor is missing");
        }
    }
    return check_finish(blob, &pool->finish, out, word[8], word[9], word[10], pool->divisor_count, word + 11);
}

/* Index into ``divisors`` for an average's output; the loader has checked that it is there. */
static int32_t divisor_index(const struct pool *pool, int32_t row, int32_t column) {
    int64_t product = (int64_t)pool->rows[row].divisor * pool->columns[column].divisor;
    int32_t index = 0;
    while (pool->divisors[index] != product)
        index++;
    return index;
}

static void portable(const struct step *step) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const int8_t *from = step->from;
    void *to = step->to;
    const struct pool *p = &operation->pool;
    int64_t index = 0;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++) {
            int32_t divisor = operation->opcode == AVERAGE_POOL ? divisor_index(p, y, x) : 0;
            for (int32_t c = 0; c < out->channels; c++, index++) {
                uint32_t total = 0;
                int8_t most = INT8_MIN;
                for (int32_t i = p->rows[y].start; i < p->rows[y].end; i += p->row_step)
                    for (int32_t j = p->columns[x].start; j < p->columns[x].end; j += p->column_step) {
                        int8_t value = from[((int64_t)i * in->width + j) * in->channels + c];
                        most = value > most ? value : most;
                        total += (uint32_t)(value - in->zero);
                    }
                if (operation->opcode == MAX_POOL)
                    ((int8_t *)to)[index] = most;
                else
                    portable_put(to, index, total, &p->finish, divisor, out->zero);
            }
        }
}

#if defined(__ARM_NEON)
static int8x16_t most(const struct pool *pool, const int8_t *from, const struct window *row, const struct window *column, int64_t line,
                      int64_t step) {
    int8x16_t value = vdupq_n_s8(INT8_MIN);
    for (int32_t i = row->start; i < row->end; i += pool->row_step)
        for (int32_t j = column->start; j < column->end; j += pool->column_step)
            value = vmaxq_s8(value, vld1q_s8(from + i * line + j * step));
    return value;
}

enum { TAPS = 9 }; /* of the windows whose places are listed: nearly all that networks have */

/* The same from listed places. */
static inline int8x16_t most_of(const int8_t *from, const int64_t *places, int taps) {
    int8x16_t value = vld1q_s8(from + places[0]);
    for (int i = 1; i < taps; i++)
        value = vmaxq_s8(value, vld1q_s8(from + places[i]));
    return value;
}

static inline int8x16_t most_of_nine(const int8_t *from, const int64_t *places) {
    int8x16_t value = vld1q_s8(from + places[0]);
    _Pragma("GCC unroll 8") for (int i = 1; i < TAPS; i++)
        value = vmaxq_s8(value, vld1q_s8(from + places[i]));
    return value;
}

static int maximum_rows(const struct step *step, int32_t first, int32_t end) {
    const struct pool *pool = &step->operation->pool;
    const struct tensor *in = step->in, *out = step->out;
    const int8_t *from = step->from;
    int8_t *to = step->to;
    int64_t channels = in->channels, line = in->width * channels;
    to += first * out->width * channels;
    for (int32_t y = first; y < end; y++)
        for (int32_t x = 0; x < out->width; x++, to += channels) {
            const struct window *row = &pool->rows[y], *column = &pool->columns[x];
            int64_t places[TAPS], taps = 0;
            for (int32_t i = row->start; i < row->end; i += pool->row_step)
                for (int32_t j = column->start; j < column->end; j += pool->column_step, taps++)
                    if (taps < TAPS)
                        places[taps] = i * line + j * channels;
            for (int64_t c = 0; c < channels; c = next(c, channels)) {
                int8x16_t value = taps == TAPS  ? most_of_nine(from + c, places)
                                  : taps < TAPS ? most_of(from + c, places, (int)taps)
                                                : most(pool, from + c, row, column, line, channels);
                if (c + 16 <= channels) {
                    vst1q_s8(to + c, value);
                } else {
                    int8_t some[16];
                    vst1q_s8(some, value);
                    memcpy(to + c, some, (size_t)(channels - c));
                }
            }
        }
    return 1;
}

static int maximum(const struct step *step) { return maximum_rows(step, 0, step->out->height); }

/* Sums of 16 channels over a window. */
static void total(const int8_t *from, const struct window *row, const struct window *column, int64_t line, int64_t step, int32x4_t *sum) {
    for (int v = 0; v < 4; v++)
        sum[v] = vdupq_n_s32(0);
    for (int32_t i = row->start; i < row->end; i++)
        for (int32_t j = column->start; j < column->end; j++) {
            int8x16_t value = vld1q_s8(from + i * line + j * step);
            int16x8_t low = vmovl_s8(vget_low_s8(value)), high = vmovl_high_s8(value);
            sum[0] = vaddw_s16(sum[0], vget_low_s16(low));
            sum[1] = vaddw_high_s16(sum[1], low);
            sum[2] = vaddw_s16(sum[2], vget_low_s16(high));
            sum[3] = vaddw_high_s16(sum[3], high);
        }
}

static int average(const struct step *step) {
    const struct pool *pool = &step->operation->pool;
    const struct tensor *in = step->in, *out = step->out;
    const int8_t *from = step->from;
    void *to = step->to;
    const struct finish *finish = &pool->finish;
    const struct requantizer r = make_requantizer(finish, out->zero);
    int64_t channels = in->channels, line = in->width * channels, index = 0;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++, index += channels) {
            const struct window *row = &pool->rows[y], *column = &pool->columns[x];
            int32_t d = divisor_index(pool, y, x);
            uint32_t area = (uint32_t)(row->end - row->start) * (uint32_t)(column->end - column->start);
            int32x4_t zeros = vdupq_n_s32((int32_t)(area * (uint32_t)-in->zero));
            for (int64_t c = 0; c < channels; c += 16) {
                int32x4_t sum[4];
                int32_t sums[16];
                int64_t count = channels - c < 16 ? channels - c : 16;
                total(from + c, row, column, line, channels, sum);
                for (int v = 0; v < 4; v++)
                    sum[v] = vaddq_s32(sum[v], zeros);
                if (finish->scale) {
                    for (int v = 0; v < 4; v++)
                        vst1q_s32(sums + 4 * v, sum[v]);
                    for (int64_t i = 0; i < count; i++) {
                        float product = (float)sums[i] * finish->scale[d];
                        ((float *)to)[index + c + i] = product + finish->shift[d];
                    }
                    continue;
                }
                int32x4_t m = vdupq_n_s32(finish->multiplier[d]), b = vdupq_n_s32(finish->offset[d]);
                for (int v = 0; v < 4; v++)
                    sum[v] = requantize(&r, sum[v], m, b);
                const int8x16_t bytes = narrow(&r, sum[0], sum[1], sum[2], sum[3]);
                if (count == 16) {
                    vst1q_s8((int8_t *)to + index + c, bytes);
                } else {
                    int8_t some[16];
                    vst1q_s8(some, bytes);
                    memcpy((int8_t *)to + index + c, some, (size_t)count);
                }
            }
        }
    return 1;
}
#endif

static inline float larger(float x, float most) { return x <= most ? most : x; }

/* Maximum (from minus infinity on) or sum of channels from ``c`` on over one window. */
static void pool_some(const struct pool *pool, int is_maximum, const float *from, const struct window *row, const struct window *column, int64_t line,
                      int64_t channels, int64_t c, float divisor, float *to) {
    for (; c < channels; c++) {
        float value = is_maximum ? -INFINITY : 0.0f;
        for (int32_t i = row->start; i < row->end; i += pool->row_step)
            for (int32_t j = column->start; j < column->end; j += pool->column_step) {
                float x = from[i * line + j * channels + c];
                value = is_maximum ? larger(x, value) : value + x;
            }
        to[c] = is_maximum ? value : value / divisor;
    }
}

#if defined(__ARM_NEON)
/* The same for V vectors of channels at ``from``. */
static inline __attribute__((always_inline)) void pool_vectors(const int V, const struct pool *pool, const int is_maximum, const float *from,
                                                               const struct window *row, const struct window *column, int64_t line,
                                                               int64_t channels, float divisor, float *to) {
    float32x4_t value[4];
    for (int v = 0; v < V; v++)
        value[v] = vdupq_n_f32(is_maximum ? -INFINITY : 0.0f);
    for (int32_t i = row->start; i < row->end; i += pool->row_step)
        for (int32_t j = column->start; j < column->end; j += pool->column_step)
            for (int v = 0; v < V; v++) {
                float32x4_t x = vld1q_f32(from + i * line + j * channels + 4 * v);
                value[v] = is_maximum ? vbslq_f32(vcleq_f32(x, value[v]), value[v], x) : vaddq_f32(value[v], x);
            }
    for (int v = 0; v < V; v++)
        vst1q_f32(to + 4 * v, is_maximum ? value[v] : vdivq_f32(value[v], vdupq_n_f32(divisor)));
}

static int64_t pool_channels(const struct pool *pool, const int is_maximum, const float *from, const struct window *row, const struct window *column,
                             int64_t line, int64_t channels, float divisor, float *to) {
    int64_t c = 0;
    for (; c + 16 <= channels; c += 16)
        pool_vectors(4, pool, is_maximum, from + c, row, column, line, channels, divisor, to + c);
    for (; c + 4 <= channels; c += 4)
        pool_vectors(1, pool, is_maximum, from + c, row, column, line, channels, divisor, to + c);
    return c;
}

#endif

static void floats(const struct step *step, int portable) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const float *from = (const float *)(const void *)step->from;
    float *to = (float *)(void *)step->to;
    const struct pool *p = &operation->pool;
    int is_maximum = operation->opcode == MAX_POOL;
    int64_t line = (int64_t)in->width * in->channels;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++, to += out->channels) {
            const struct window *row = &p->rows[y], *column = &p->columns[x];
            float divisor = (float)((int64_t)row->divisor * column->divisor);
            int64_t c = 0;
#if defined(__ARM_NEON)
            if (!portable && is_maximum)
                c = pool_channels(p, 1, from, row, column, line, in->channels, divisor, to);
            else if (!portable)
                c = pool_channels(p, 0, from, row, column, line, in->channels, divisor, to);
#endif
            pool_some(p, is_maximum, from, row, column, line, in->channels, c, divisor, to);
        }
    (void)portable;
}

const struct operation_kind max_pool_kind = {
    .name = "max_pool",
    .inputs = 1,
    .check = check_maximum,
    .portable = portable,
#if defined(__ARM_NEON)
    .vector = maximum,
    .rows = maximum_rows,
#endif
    .floats = floats,
};

const struct operation_kind average_pool_kind = {
    .name = "average_pool",
    .inputs = 1,
    .check = check_average,
    .portable = portable,
#if defined(__ARM_NEON)
    .vector = average,
#endif
};

static int check_float_average(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    REQUIRE(in->floating && out->floating, "an average of floats over bytes");
    if (!check_windows(blob, operation, word))
        return 0;
    for (int32_t i = 0; i < out->height; i++)
        REQUIRE(operation->pool.rows[i].divisor > 0, "an average's divisor is not positive");
    for (int32_t i = 0; i < out->width; i++)
        REQUIRE(operation->pool.columns[i].divisor > 0, "an average's divisor is not positive");
    return 1;
}

const struct operation_kind float_average_pool_kind = {
    .name = "float_average_pool", .inputs = 1, .check = check_float_average, .floats = floats};
