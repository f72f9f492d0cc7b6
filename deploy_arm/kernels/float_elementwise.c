/* Sums, products and functions of floats. The first two have a vector form beside the plain C; functions are written so that a
 * compiler finds one, and the same code serves both. */
#include "blob_checks.h"
#include "floats.h"
#include "operations.h"

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

static int check_two(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    const struct tensor *second = &blob->tensors[operation->second];
    (void)written;
    int vector = operation->opcode == FLOAT_MULTIPLY && second->height == 1 && second->width == 1;
    REQUIRE(same_shape(in, out) && in->floating && second->floating && out->floating, "a sum or product of bytes, or one that changes the shape");
    REQUIRE(second->channels == in->channels && (vector || (second->height == in->height && second->width == in->width)),
            "the shapes of a sum or product do not fit");
    return check_limits(blob, &operation->limit.low, &operation->limit.high, word + 4);
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

static void combine_tensors(const struct step *step, int portable) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *second = step->second;
    const float *a = (const float *)(const void *)step->from, *b = (const float *)(const void *)step->other;
    float *to = (float *)(void *)step->to;
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

const struct operation_kind float_add_kind = {
    .name = "float_add", .inputs = 2, .in_place = 1, .check = check_two, .floats = combine_tensors};
const struct operation_kind float_multiply_kind = {
    .name = "float_multiply", .inputs = 2, .in_place = 1, .check = check_two, .floats = combine_tensors};

static int check_function(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    operation->function.kind = word[4];
    memcpy(&operation->function.parameter, word + 5, 4);
    REQUIRE(same_shape(in, out) && in->floating && out->floating, "a function of bytes, or one that changes the shape");
    REQUIRE(within(word[4], LEAKY_RELU, LAST_FUNCTION), "an unknown function");
    return check_limits(blob, &operation->function.low, &operation->function.high, word + 6);
}

static void function(const struct step *step, int portable) {
    const struct operation *operation = step->operation;
    const float *from = (const float *)(const void *)step->from;
    float *to = (float *)(void *)step->to;
    const int64_t count = step->in->elements;
    (void)portable;
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

const struct operation_kind float_function_kind = {
    .name = "float_function", .inputs = 1, .in_place = 1, .check = check_function, .floats = function};
