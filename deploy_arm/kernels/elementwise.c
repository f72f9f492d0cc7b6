/* Vector forms of the operations that are no convolution. What is not worth one (padding) is left to
 * portable.c. */
#if defined(__ARM_NEON)
#include "neon.h"

/* A table of 256 bytes in registers, for stored bytes on both sides. */
struct table {
    uint8x16x4_t part[4];
};

static struct table load_table(const uint8_t *bytes, const struct tensor *in, const struct tensor *out) {
    struct table t;
    uint8x16_t flip = vdupq_n_u8((uint8_t)out->zero);
    for (int i = 0; i < 4; i++) {
        int from = in->zero ? i ^ 2 : i; /* flipping an index's top bit swaps the halves */
        for (int j = 0; j < 4; j++)
            t.part[i].val[j] = veorq_u8(vld1q_u8(bytes + from * 64 + j * 16), flip);
    }
    return t;
}

static inline uint8x16_t look_up(const struct table *t, uint8x16_t index) {
    const uint8x16_t next = vdupq_n_u8(64);
    uint8x16_t value = vqtbl4q_u8(t->part[0], index); /* an index beyond a part's 64 bytes leaves the value */
    for (int i = 1; i < 4; i++) {
        index = vsubq_u8(index, next);
        value = vqtbx4q_u8(value, t->part[i], index);
    }
    return value;
}

/* After 16 elements from ``c`` on of ``run``: the last 16 come once more where they are no whole number of 16. */
static inline int64_t next(int64_t c, int64_t run) { return c + 16 < run && c + 32 > run ? run - 16 : c + 16; }

/* ``pixels`` runs of ``run`` bytes, ``in_step`` and ``out_step`` bytes apart. */
static void map_table(const struct table *t, const uint8_t *from, uint8_t *to, int64_t pixels, int64_t run, int64_t in_step, int64_t out_step) {
    for (; pixels; pixels--, from += in_step, to += out_step) {
        if (run < 16) {
            uint8_t some[16] = {0};
            memcpy(some, from, (size_t)run);
            vst1q_u8(some, look_up(t, vld1q_u8(some)));
            memcpy(to, some, (size_t)run);
            continue;
        }
        uint8x16_t last = vld1q_u8(from + run - 16); /* read first: ``to`` may be ``from`` */
        for (int64_t i = 0; i + 16 <= run; i += 16)
            vst1q_u8(to + i, look_up(t, vld1q_u8(from + i)));
        if (run % 16)
            vst1q_u8(to + run - 16, look_up(t, last));
    }
}

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

static void max_pool(const struct pool *pool, const struct tensor *in, const struct tensor *out, const int8_t *from, int8_t *to,
                     int32_t first, int32_t end) {
    int64_t step = in->channels, line = in->width * step;
    to += first * out->width * step;
    for (int32_t y = first; y < end; y++)
        for (int32_t x = 0; x < out->width; x++, to += step) {
            const struct window *row = &pool->rows[y], *column = &pool->columns[x];
            int64_t places[TAPS], taps = 0;
            for (int32_t i = row->start; i < row->end; i += pool->row_step)
                for (int32_t j = column->start; j < column->end; j += pool->column_step, taps++)
                    if (taps < TAPS)
                        places[taps] = i * line + j * step;
            for (int64_t c = 0; c < step; c = next(c, step)) {
                int8x16_t value = taps == TAPS  ? most_of_nine(from + c, places)
                                  : taps < TAPS ? most_of(from + c, places, (int)taps)
                                                : most(pool, from + c, row, column, line, step);
                if (c + 16 <= step) {
                    vst1q_s8(to + c, value);
                } else {
                    int8_t some[16];
                    vst1q_s8(some, value);
                    memcpy(to + c, some, (size_t)(step - c));
                }
            }
        }
}

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

static void average_pool(const struct pool *pool, const struct tensor *in, const struct tensor *out, const int8_t *from, void *to) {
    const struct finish *finish = &pool->finish;
    const struct requantizer r = make_requantizer(finish, out->zero);
    int64_t step = in->channels, line = in->width * step, index = 0;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++, index += step) {
            const struct window *row = &pool->rows[y], *column = &pool->columns[x];
            int32_t d = divisor_index(pool, y, x);
            uint32_t area = (uint32_t)(row->end - row->start) * (uint32_t)(column->end - column->start);
            int32x4_t zeros = vdupq_n_s32((int32_t)(area * (uint32_t)-in->zero));
            for (int64_t c = 0; c < step; c += 16) {
                int32x4_t sum[4];
                int32_t sums[16];
                int64_t count = step - c < 16 ? step - c : 16;
                total(from + c, row, column, line, step, sum);
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
                int8_t some[16];
                vst1q_s8(some, narrow(&r, sum[0], sum[1], sum[2], sum[3]));
                memcpy((int8_t *)to + index + c, some, (size_t)count);
            }
        }
}

static void concatenate(const struct blob *blob, const struct operation *operation, uint8_t *arena) {
    const struct concatenate *c = &operation->concatenate;
    const struct tensor *out = &blob->tensors[operation->output];
    uint8_t *to = arena + out->offset;
    for (int32_t i = 0; i < c->count; i++) {
        const struct tensor *in = &blob->tensors[c->records[2 * i]];
        const struct table table = load_table(blob->data + c->records[2 * i + 1], in, out);
        map_table(&table, arena + in->offset, to, (int64_t)in->height * in->width, in->channels, in->channels, out->channels);
        to += in->channels;
    }
}

/* Tables of few channels, straight from the image: three instructions for a byte. */
static int look_up_pixels(const struct blob *blob, const struct operation *operation, const uint8_t *image, int8_t *to, int32_t row,
                          int32_t row_end) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    uint8_t table[3 * 256];
    if (operation->input != blob->input || (in->channels != 1 && in->channels != 3))
        return 0;
    for (int32_t i = 0; i < in->channels * 256; i++)
        table[i] = operation->table[i] ^ (uint8_t)out->zero;
    const int64_t line = (int64_t)in->width * in->channels, end = row_end * line;
    if (in->channels == 1)
        for (int64_t i = row * line; i < end; i++)
            to[i] = (int8_t)table[image[i]];
    else
        for (int64_t i = row * line; i < end; i += 3) {
            to[i] = (int8_t)table[image[i]];
            to[i + 1] = (int8_t)table[256 + image[i + 1]];
            to[i + 2] = (int8_t)table[512 + image[i + 2]];
        }
    return 1;
}

/* ``run`` bytes, at least 16, or (``step`` 2) every second of twice as many. */
static void copy_run(const int8_t *from, int8_t *to, int64_t run, int32_t step) {
    for (int64_t c = 0; c < run; c = next(c, run))
        vst1q_s8(to + c, step == 2 ? vld2q_s8(from + 2 * c).val[0] : vld1q_s8(from + c));
}

/* Slices of neighbouring channels, and of every second one. */
static int slice_pixels(const struct operation *operation, const struct tensor *in, const struct tensor *out, const int8_t *from, int8_t *to) {
    const int32_t *start = operation->slice.starts, *step = operation->slice.steps;
    const int64_t run = out->channels;
    if (step[2] > 2 || (step[2] == 2 && run < 16))
        return 0;
    for (int64_t y = 0; y < out->height; y++) {
        const int8_t *pixel = from + ((start[0] + y * step[0]) * in->width + start[1]) * in->channels + start[2];
        for (int32_t x = 0; x < out->width; x++, pixel += (int64_t)step[1] * in->channels, to += run) {
            if (run < 16)
                memcpy(to, pixel, (size_t)run);
            else if (step[2] == 1)
                copy_run(pixel, to, run, 1);
            else
                copy_run(pixel, to, run, 2);
        }
    }
    return 1;
}

int neon_rows(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image, int32_t row, int32_t row_end) {
    if (operation->opcode != INPUT_TABLE && operation->opcode != MAX_POOL)
        return 0;
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    int8_t *to = (int8_t *)arena + out->offset;
    if (operation->opcode == INPUT_TABLE)
        return look_up_pixels(blob, operation, image, to, row, row_end);
    max_pool(&operation->pool, in, out, (const int8_t *)arena + in->offset, to, row, row_end);
    return 1;
}

int neon_operation(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image) {
    if (operation->opcode == CONCATENATE) {
        concatenate(blob, operation, arena);
        return 1;
    }
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    const int8_t *from = (const int8_t *)arena + in->offset;
    int8_t *to = (int8_t *)arena + out->offset;
    switch (operation->opcode) {
    case INPUT_TABLE:
    case MAX_POOL: return neon_rows(blob, operation, arena, image, 0, out->height);
    case SLICE: return slice_pixels(operation, in, out, from, to);
    case ADD: {
        const struct tensor *second = &blob->tensors[operation->second];
        neon_add(&operation->add, in, second, out, from, (const int8_t *)arena + second->offset, to);
        return 1;
    }
    case GATHER: return neon_gather(operation, in, out, from, to);
    case LAYER_NORM: return neon_layer_norm(operation, out, from, to);
    case MULTIPLY: neon_multiply(blob, operation, arena); return 1;
    case AVERAGE_POOL: average_pool(&operation->pool, in, out, from, to); return 1;
    case TABLE: {
        const struct table table = load_table(operation->table, in, out);
        map_table(&table, (const uint8_t *)from, (uint8_t *)to, 1, in->elements, 0, 0);
        return 1;
    }
    default: return 0;
    }
}
#endif
