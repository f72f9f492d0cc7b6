/* Vector forms that several kernels share. */
#ifndef NEON_H
#define NEON_H

#include <arm_neon.h>
#include <string.h>

#include "blob.h"

/* acc[i] += dot product of 4 bytes of weights[4 i ..] with the 4 bytes ``lane`` of x. */
#if defined(__ARM_FEATURE_DOTPROD)
#define DOT(acc, weights, x, lane) vdotq_laneq_s32(acc, weights, x, lane)
#define DOT_HALF(acc, weights, x, lane) vdotq_lane_s32(acc, weights, x, lane) /* ``x`` of 8 bytes */
#else
static inline int32x4_t dot(int32x4_t acc, int8x16_t weights, int8x16_t x) {
    int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(x)); /* single products, so 16 bits are enough for -128 too */
    int16x8_t high = vmull_high_s8(weights, x);
    return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
}
#define DOT(acc, weights, x, lane) dot(acc, weights, vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane)))
#define DOT_HALF(acc, weights, x, lane) dot(acc, weights, vreinterpretq_s8_s32(vdupq_lane_s32(vreinterpret_s32_s8(x), lane)))
#endif

/* After 16 elements from ``c`` on of ``run``: the last 16 come once more where they are no whole number of 16. */
static inline int64_t next(int64_t c, int64_t run) { return c + 16 < run && c + 32 > run ? run - 16 : c + 16; }

/* The lower halves of two vectors, or the upper ones. */
static inline int32x4_t lower(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

static inline int32x4_t upper(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

struct requantizer {
    int32x4_t left, minus_right;
    int16x8_t zero, minus_rest; /* of the right shift, after 16 */
    int8x16_t low, high;
};

static inline struct requantizer make_requantizer(const struct finish *finish, int32_t zero) {
    struct requantizer r;
    r.left = vdupq_n_s32(finish->left);
    r.minus_right = vdupq_n_s32(-finish->right);
    r.zero = vdupq_n_s16((int16_t)zero);
    r.minus_rest = vdupq_n_s16((int16_t)(16 - finish->right));
    r.low = vdupq_n_s8((int8_t)(finish->low + zero));
    r.high = vdupq_n_s8((int8_t)(finish->high + zero));
    return r;
}

static inline int32x4_t requantize(const struct requantizer *r, int32x4_t acc, int32x4_t multiplier, int32x4_t offset) {
    int32x4_t t = vqrdmulhq_s32(vqshlq_s32(acc, r->left), multiplier);
    return vrshlq_s32(vqaddq_s32(t, offset), r->minus_right);
}

/* Saturating to 16 and then to 8 bits keeps the order, and the clamp's limits are bytes: the result is the clamped value. */
static inline int8x16_t narrow(const struct requantizer *r, int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
    int16x8_t low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), r->zero);
    int16x8_t high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(c), d), r->zero);
    return vmaxq_s8(vminq_s8(vqmovn_high_s16(vqmovn_s16(low), high), r->high), r->low);
}

/* Constants that are needed in a register which is then overwritten are read from memory every time: loads have pipes of their
 * own, moves between registers take those of the arithmetic. ``volatile`` keeps the compiler from doing otherwise. */
typedef int32x4_t unaligned_int32x4 __attribute__((aligned(4))); /* a vector anywhere in an array of int32_t */
static inline int32x4_t again(const int32_t *from) { return *(const volatile unaligned_int32x4 *)from; }

/* For plans that are ``direct``: the upper half of the result is the sum shifted by 16 already. The pair of instructions is kept
 * together, or the compiler loads the offsets of a whole tile first and runs out of registers. */
static inline int32x4_t requantize_direct(const struct requantizer *r, int32x4_t acc, int32x4_t multiplier, const int32_t *offset) {
#if defined(__ARM_FEATURE_QRDMX)
    int32x4_t result, t = vqshlq_s32(acc, r->left);
    __asm__("ldr %q0, [%1]\n\tsqrdmlah %0.4s, %2.4s, %3.4s" /* saturates once, at the end, as the two below do */
            : "=&w"(result)
            : "r"(offset), "w"(t), "w"(multiplier), "m"(*(const int32_t(*)[4])offset));
    return result;
#else
    return vqaddq_s32(vqrdmulhq_s32(vqshlq_s32(acc, r->left), multiplier), vld1q_s32(offset));
#endif
}

/* The same with 4 offsets and their multipliers side by side, one load for both; ``*both`` goes on to the next. */
static inline int32x4_t requantize_next(const struct requantizer *r, int32x4_t acc, const int32_t **both) {
#if defined(__ARM_FEATURE_QRDMX)
    int32x4_t result, multiplier, t = vqshlq_s32(acc, r->left);
    __asm__("ldp %q0, %q1, [%2], #32\n\tsqrdmlah %0.4s, %3.4s, %1.4s"
            : "=&w"(result), "=&w"(multiplier), "+r"(*both)
            : "w"(t), "m"(*(const int32_t(*)[8])*both));
    return result;
#else
    int32x4_t result = vqaddq_s32(vqrdmulhq_s32(vqshlq_s32(acc, r->left), vld1q_s32(*both + 4)), vld1q_s32(*both));
    *both += 8;
    return result;
#endif
}

/* As again() for two vectors. */
static inline void again_two(const int32_t **from, int32x4_t *first, int32x4_t *second) {
#if defined(__aarch64__)
    __asm__ volatile("ldp %q0, %q1, [%2], #32" : "=w"(*first), "=w"(*second), "+r"(*from) : "m"(*(const int32_t(*)[8])*from));
#else
    *first = again(*from), *second = again(*from + 4), *from += 8;
#endif
}

static inline int8x16_t narrow_direct(const struct requantizer *r, int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
    int16x8_t low = vshlq_s16(vuzp2q_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)), r->minus_rest);
    int16x8_t high = vshlq_s16(vuzp2q_s16(vreinterpretq_s16_s32(c), vreinterpretq_s16_s32(d)), r->minus_rest);
    return vmaxq_s8(vminq_s8(vqmovn_high_s16(vqmovn_s16(low), high), r->high), r->low);
}

#endif
