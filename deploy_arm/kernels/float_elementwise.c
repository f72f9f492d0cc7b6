/* The float operations that are no convolution. What is hot has a vector form beside the plain C; the rest, functions among it, is
 * written so that a compiler finds one, and the same code serves both. */
#include "floats.h"

#include <math.h>
#include <string.h>

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* A float with these bits, and the bits of a float. */
static inline float of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* exp(x) for x in -87..88, by x = n ln 2 + r and the Taylor polynomial of degree 7 in r: within 2 units in the last place. Adding
 * 1.5 * 2**23 rounds to an integer, which then stands in the low bits. */
static inline float exponential(float x) {
    const float magic = 12582912.0f;
    x = limited(x, -87.0f, 88.0f);
    float shifted = fmaf(x, 1.44269504f, magic), n = shifted - magic;
    float r = fmaf(n, -0.693145752f, x);
    r = fmaf(n, -1.42860677e-6f, r);
    float p = 1.98412698e-4f;
    p = fmaf(p, r, 1.38888889e-3f);
    p = fmaf(p, r, 8.33333333e-3f);
    p = fmaf(p, r, 4.16666667e-2f);
    p = fmaf(p, r, 1.66666667e-1f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * of_bits((bits_of(shifted) - bits_of(magic) + 127u) << 23);
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline __attribute__((always_inline)) float apply(enum function kind, float x, float parameter) {
    switch (kind) {
    case LEAKY_RELU: return x > 0.0f ? x : x * parameter;
    case HARDSIGMOID: return limited(x + 3.0f, 0.0f, 6.0f) / 6.0f;
    case HARDSWISH: return x * limited(x + 3.0f, 0.0f, 6.0f) / 6.0f;
    case SIGMOID: return sigmoid(x);
    case SILU: return x * sigmoid(x);
    case TANH: return 2.0f * sigmoid(2.0f * x) - 1.0f;
    }
    return x;
}

#define EACH(KIND)                                                                       \
    case KIND:                                                                           \
        for (int64_t i = 0; i < count; i++)                                              \
            to[i] = limited(apply(KIND, from[i], f.parameter), f.low, f.high);           \
        break;

static void function(const struct operation *operation, int64_t count, const float *from, float *to) {
    struct {
        float low, high, parameter;
    } f = {operation->function.low, operation->function.high, operation->function.parameter};
    switch (operation->function.kind) {
        EACH(LEAKY_RELU)
        EACH(HARDSIGMOID)
        EACH(HARDSWISH)
        EACH(SIGMOID)
        EACH(SILU)
        EACH(TANH)
    }
}

static void look_up(const float *table, const struct tensor *in, const uint8_t *image, float *to) {
    int32_t channels = in->channels;
    if (channels == 3) {
        for (int64_t i = 0; i < in->elements; i += 3) {
            to[i] = table[image[i]];
            to[i + 1] = table[256 + image[i + 1]];
            to[i + 2] = table[512 + image[i + 2]];
        }
        return;
    }
    for (int64_t i = 0; i < in->elements; i += channels)
        for (int32_t c = 0; c < channels; c++)
            to[i + c] = table[256 * c + image[i + c]];
}

/* Sums or products from element ``i`` on. */
static void combine(const struct operation *operation, int64_t i, int64_t count, const float *a, const float *b, float *to) {
    float low = operation->limit.low, high = operation->limit.high;
    if (operation->opcode == FLOAT_ADD)
        for (; i < count; i++)
            to[i] = limited(a[i] + b[i], low, high);
    else
        for (; i < count; i++)
            to[i] = limited(a[i] * b[i], low, high);
}

#if defined(__ARM_NEON)
static int64_t combine_vectors(const struct operation *operation, int64_t count, const float *a, const float *b, float *to) {
    const float32x4_t low = vdupq_n_f32(operation->limit.low), high = vdupq_n_f32(operation->limit.high);
    int64_t i = 0;
    if (operation->opcode == FLOAT_ADD)
        for (; i + 16 <= count; i += 16)
            _Pragma("GCC unroll 4") for (int v = 0; v < 16; v += 4)
                vst1q_f32(to + i + v, vminq_f32(vmaxq_f32(vaddq_f32(vld1q_f32(a + i + v), vld1q_f32(b + i + v)), low), high));
    else
        for (; i + 16 <= count; i += 16)
            _Pragma("GCC unroll 4") for (int v = 0; v < 16; v += 4)
                vst1q_f32(to + i + v, vminq_f32(vmaxq_f32(vmulq_f32(vld1q_f32(a + i + v), vld1q_f32(b + i + v)), low), high));
    return i;
}
#endif

static void combine_tensors(const struct operation *operation, const struct tensor *in, const struct tensor *second, const float *a, const float *b,
                            float *to, int portable) {
    int64_t length = second->elements; /* a vector multiplies every position */
    for (int64_t done = 0; done < in->elements; done += length, a += length, to += length) {
        int64_t first = 0;
#if defined(__ARM_NEON)
        if (!portable)
            first = combine_vectors(operation, length, a, b, to);
#endif
        combine(operation, first, length, a, b, to);
    }
    (void)portable;
}

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

static void pool(const struct operation *operation, const struct tensor *in, const struct tensor *out, const float *from, float *to, int portable) {
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

static void concatenate(const struct blob *blob, const struct operation *operation, const struct tensor *out, uint8_t *arena) {
    const struct concatenate *c = &operation->concatenate;
    float *to = (float *)(void *)(arena + out->offset);
    int64_t pixels = (int64_t)out->height * out->width;
    for (int32_t i = 0; i < c->count; i++) {
        const struct tensor *in = &blob->tensors[c->records[i]];
        const float *from = (const float *)(const void *)(arena + in->offset);
        for (int64_t p = 0; p < pixels; p++)
            memcpy(to + p * out->channels, from + p * in->channels, (size_t)in->channels * sizeof *to);
        to += in->channels;
    }
}

static void slice(const struct operation *operation, const struct tensor *in, const struct tensor *out, const float *from, float *to) {
    const int32_t *start = operation->slice.starts, *step = operation->slice.steps;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++, to += out->channels) {
            int64_t row = start[0] + (int64_t)y * step[0], column = start[1] + (int64_t)x * step[1];
            const float *pixel = from + (row * in->width + column) * in->channels + start[2];
            if (step[2] == 1)
                memcpy(to, pixel, (size_t)out->channels * sizeof *to);
            else
                for (int32_t c = 0; c < out->channels; c++)
                    to[c] = pixel[(int64_t)c * step[2]];
        }
}

static void pad(const struct operation *operation, const struct tensor *in, const struct tensor *out, const float *from, float *to) {
    const int32_t *before = operation->pad.before;
    memset(to, 0, out->bytes);
    for (int32_t y = 0; y < in->height; y++)
        for (int32_t x = 0; x < in->width; x++)
            memcpy(to + ((int64_t)(y + before[0]) * out->width + x + before[1]) * out->channels + before[2],
                   from + ((int64_t)y * in->width + x) * in->channels, (size_t)in->channels * sizeof *to);
}

static void gather(const struct operation *operation, const struct tensor *in, const struct tensor *out, const float *from, float *to) {
    for (int64_t done = 0; done < out->elements; done += out->channels, from += in->channels, to += out->channels)
        for (int32_t c = 0; c < out->channels; c++)
            to[c] = from[operation->indices[c]];
}

int float_operation(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image, int portable) {
    const struct tensor *out = &blob->tensors[operation->output];
    if (operation->opcode == FLOAT_CONCATENATE) {
        concatenate(blob, operation, out, arena);
        return 1;
    }
    if (!out->floating || operation->opcode == CONCATENATE)
        return 0;
    const struct tensor *in = &blob->tensors[operation->input];
    const float *from = (const float *)(const void *)(arena + in->offset);
    float *to = (float *)(void *)(arena + out->offset);
    switch (operation->opcode) {
    case FLOAT_INPUT: look_up(operation->float_table, in, image, to); return 1;
    case FLOAT_ADD:
    case FLOAT_MULTIPLY: {
        const struct tensor *second = &blob->tensors[operation->second];
        combine_tensors(operation, in, second, from, (const float *)(const void *)(arena + second->offset), to, portable);
        return 1;
    }
    case MAX_POOL:
    case FLOAT_AVERAGE_POOL: pool(operation, in, out, from, to, portable); return 1;
    case FLOAT_FUNCTION: function(operation, in->elements, from, to); return 1;
    case SLICE: slice(operation, in, out, from, to); return 1;
    case PAD: pad(operation, in, out, from, to); return 1;
    case GATHER: gather(operation, in, out, from, to); return 1;
    default: return 0; /* a reshape or limit, or integers as floats */
    }
}
