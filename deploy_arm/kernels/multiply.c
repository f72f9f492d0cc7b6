/* Products of two activations: element by element, or a vector of the channels times every position. */
#include "blob_checks.h"
#include "operations.h"
#include "requantize.h"

static int check(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    const struct tensor *second = &blob->tensors[operation->second];
    (void)written;
    int vector = second->height == 1 && second->width == 1;
    REQUIRE(same_shape(in, out) && second->channels == in->channels && (vector || (second->height == in->height && second->width == in->width)),
            "a product's shapes do not fit");
    REQUIRE(!in->floating && !second->floating && !out->floating, "a product of floats");
    operation->multiply.multiplier = word + 4;
    operation->multiply.offset = word + 5;
    return check_requantize(blob, &operation->multiply, out, 1, word + 6);
}

static void portable(const struct step *step) {
    const struct tensor *one = step->in, *two = step->second, *out = step->out;
    const int8_t *x = step->from, *y = step->other;
    int8_t *to = step->to;
    for (int64_t i = 0; i < out->elements; i++) {
        int32_t other = y[two->elements == out->elements ? i : i % out->channels] - two->zero;
        to[i] = portable_requantize((x[i] - one->zero) * other, &step->operation->multiply, 0, out->zero);
    }
}

#if defined(__ARM_NEON)
#include "neon.h"

/* Four integers from 16-bit halves of what is stored. */
static inline int32x4_t product(int16x4_t a, int16x4_t b, const struct requantizer *r, int32x4_t m, int32x4_t n) {
    return requantize(r, vmull_s16(a, b), m, n);
}

static int vector(const struct step *step) {
    const struct tensor *one = step->in, *two = step->second, *out = step->out;
    const struct requantizer r = make_requantizer(&step->operation->multiply, out->zero);
    const int32x4_t m = vdupq_n_s32(step->operation->multiply.multiplier[0]), n = vdupq_n_s32(step->operation->multiply.offset[0]);
    const int16x8_t first_zero = vdupq_n_s16((int16_t)one->zero), second_zero = vdupq_n_s16((int16_t)two->zero);
    const int8_t *x = step->from, *y = step->other;
    int8_t *to = step->to;
    int64_t run = two->elements, runs = out->elements / run; /* the second's elements meet every run of the first's */
    for (; runs; runs--, x += run, to += run)
        for (int64_t i = 0; i < run; i += 16) {
            int8x16_t a = vld1q_s8(x + i), b = vld1q_s8(y + i);
            int16x8_t a0 = vsubq_s16(vmovl_s8(vget_low_s8(a)), first_zero), a1 = vsubq_s16(vmovl_high_s8(a), first_zero);
            int16x8_t b0 = vsubq_s16(vmovl_s8(vget_low_s8(b)), second_zero), b1 = vsubq_s16(vmovl_high_s8(b), second_zero);
            int8x16_t result = narrow(&r, product(vget_low_s16(a0), vget_low_s16(b0), &r, m, n),
                                      product(vget_high_s16(a0), vget_high_s16(b0), &r, m, n),
                                      product(vget_low_s16(a1), vget_low_s16(b1), &r, m, n),
                                      product(vget_high_s16(a1), vget_high_s16(b1), &r, m, n));
            if (i + 16 <= run) {
                vst1q_s8(to + i, result);
            } else {
                int8_t some[16];
                vst1q_s8(some, result);
                memcpy(to + i, some, (size_t)(run - i));
            }
        }
    return 1;
}
#endif

const struct operation_kind multiply_kind = {
    .name = "multiply",
    .inputs = 2,
    .in_place = 1,
    .check = check,
    .portable = portable,
#if defined(__ARM_NEON)
    .vector = vector,
#endif
};
