/* Products of two activations: element by element, or a vector of the channels times every position. */
#include "kernels.h"

void portable_multiply(const struct blob *blob, const struct operation *operation, uint8_t *arena) {
    const struct tensor *one = &blob->tensors[operation->input], *two = &blob->tensors[operation->second];
    const struct tensor *out = &blob->tensors[operation->output];
    const int8_t *x = (const int8_t *)arena + one->offset, *y = (const int8_t *)arena + two->offset;
    int8_t *to = (int8_t *)arena + out->offset;
    for (int64_t i = 0; i < out->elements; i++) {
        int32_t other = y[two->elements == out->elements ? i : i % out->channels] - two->zero;
        to[i] = portable_requantize((x[i] - one->zero) * other, &operation->multiply, 0, out->zero);
    }
}

#if defined(__ARM_NEON)
#include "neon.h"

/* Four integers from 16-bit halves of what is stored. */
static inline int32x4_t product(int16x4_t a, int16x4_t b, const struct requantizer *r, int32x4_t m, int32x4_t n) {
    return requantize(r, vmull_s16(a, b), m, n);
}

void neon_multiply(const struct blob *blob, const struct operation *operation, uint8_t *arena) {
    const struct tensor *one = &blob->tensors[operation->input], *two = &blob->tensors[operation->second];
    const struct tensor *out = &blob->tensors[operation->output];
    const struct requantizer r = make_requantizer(&operation->multiply, out->zero);
    const int32x4_t m = vdupq_n_s32(operation->multiply.multiplier[0]), n = vdupq_n_s32(operation->multiply.offset[0]);
    const int16x8_t first_zero = vdupq_n_s16((int16_t)one->zero), second_zero = vdupq_n_s16((int16_t)two->zero);
    const int8_t *x = (const int8_t *)arena + one->offset, *y = (const int8_t *)arena + two->offset;
    int8_t *to = (int8_t *)arena + out->offset;
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
}
#endif
