/* Weighted sums of two activations: an operation of its own, or the end of a convolution. */
#include "blob_checks.h"
#include "operations.h"
#include "plan.h"

/* What a sum needs of its two inputs and its output: their stored zeros. */
struct zeros {
    int32_t first, second, out;
};

static int8_t weigh_one(const struct addition *by, const struct zeros *zero, int8_t first, int8_t second) {
    int32_t value = (first - zero->first) * by->multipliers[0] + (second - zero->second) * by->multipliers[1];
    value = (value + (1 << (by->right - 1))) >> by->right;
    value = value < by->low ? by->low : value > by->high ? by->high : value;
    return (int8_t)(value + zero->out);
}

static int check(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    REQUIRE(same_shape(in, out), "an addition's shapes differ");
    return check_addition(blob, &operation->add, in, &blob->tensors[operation->second], out, word + 4);
}

static void portable(const struct step *step) {
    const struct zeros zero = {step->in->zero, step->second->zero, step->out->zero};
    const struct addition *by = &step->operation->add;
    const int8_t *first = step->from, *second = step->other;
    int8_t *to = step->to;
    for (int64_t i = 0; i < step->out->elements; i++)
        to[i] = weigh_one(by, &zero, first[i], second[i]);
}

void portable_add_residual(const struct plan *plan, int8_t *out) {
    const struct zeros zero = {plan->convolution->zero, plan->residual->zero, plan->out->zero};
    const int8_t *residual = out + plan->residual_distance;
    for (int64_t i = 0; i < plan->out->elements; i++)
        out[i] = weigh_one(&plan->convolution->residual, &zero, out[i], residual[i]);
}

#if defined(__ARM_NEON)
#include "neon.h"

/* ``runs`` runs of ``run`` bytes, ``step`` bytes apart. */
struct place {
    int64_t run, runs, step;
};

/* (a m + b n + constant) >> right of 4 elements; the constant holds the rounding and what the zeros add. */
static inline int32x4_t weigh(int16x4_t a, int16x4_t b, int32x4_t m, int32x4_t n, int32x4_t constant, int32x4_t minus_right) {
    return vshlq_s32(vmlaq_s32(vmlaq_s32(constant, vmovl_s16(a), m), vmovl_s16(b), n), minus_right);
}

struct any_sum {
    struct requantizer r;
    int32x4_t constant, m, n, shift;
};

static inline int8x16_t sum_any(const struct any_sum *s, int8x16_t a, int8x16_t b) {
    int16x8_t a0 = vmovl_s8(vget_low_s8(a)), a1 = vmovl_high_s8(a), b0 = vmovl_s8(vget_low_s8(b)), b1 = vmovl_high_s8(b);
    return narrow(&s->r, weigh(vget_low_s16(a0), vget_low_s16(b0), s->m, s->n, s->constant, s->shift),
                  weigh(vget_high_s16(a0), vget_high_s16(b0), s->m, s->n, s->constant, s->shift),
                  weigh(vget_low_s16(a1), vget_low_s16(b1), s->m, s->n, s->constant, s->shift),
                  weigh(vget_high_s16(a1), vget_high_s16(b1), s->m, s->n, s->constant, s->shift));
}

/* The same for right shifts of 16 to 22. Multipliers are split into a low half (signed) and the rest, at most 16: what the low
 * halves give is needed only from bit 16 up, and all above it fits 16 bits, where 8 elements are worked on at a time. */
struct direct_sum {
    struct requantizer r;
    int16_t low_m, low_n, above[8];
    int32_t below[4];
    int8x8_t high_m, high_n;
};

static inline int8x16_t sum_direct(const struct direct_sum *s, int8x16_t a, int8x16_t b) {
    int16x8_t sum[2];
    _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {
        int8x8_t u = half ? vget_high_s8(a) : vget_low_s8(a), v = half ? vget_high_s8(b) : vget_low_s8(b);
        int16x8_t wide_u = vmovl_s8(u), wide_v = vmovl_s8(v);
        int32x4_t low = vmlal_n_s16(vmlal_n_s16(again(s->below), vget_low_s16(wide_u), s->low_m), vget_low_s16(wide_v), s->low_n);
        int32x4_t high = vmlal_high_n_s16(vmlal_high_n_s16(again(s->below), wide_u, s->low_m), wide_v, s->low_n);
        sum[half] = vmlal_s8(vmlal_s8(vld1q_s16(s->above), u, s->high_m), v, s->high_n);
        sum[half] = vaddq_s16(sum[half], vuzp2q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high)));
        sum[half] = vshlq_s16(sum[half], s->r.minus_rest);
    }
    return vmaxq_s8(vminq_s8(vqmovn_high_s16(vqmovn_s16(sum[0]), sum[1]), s->r.high), s->r.low);
}

/* Bytes may be read, not used, up to 15 beyond a run. */
#define EVERY_RUN(sum, s)                                                                                            \
    for (int64_t j = 0; j < place.runs; j++, first += place.step, second += place.step, to += place.step) {          \
        int64_t i = 0;                                                                                               \
        for (; i + 16 <= place.run; i += 16)                                                                         \
            vst1q_s8(to + i, sum(&(s), vld1q_s8(first + i), vld1q_s8(second + i)));                                  \
        if (i < place.run) {                                                                                         \
            int8_t some[16];                                                                                         \
            vst1q_s8(some, sum(&(s), vld1q_s8(first + i), vld1q_s8(second + i)));                                    \
            memcpy(to + i, some, (size_t)(place.run - i));                                                           \
        }                                                                                                            \
    }

static void add_runs(const struct addition *by, const struct zeros *zero, const int8_t *first, const int8_t *second, int8_t *to,
                     const struct place place) {
    const struct finish finish = {.right = by->right, .low = by->low, .high = by->high};
    const struct requantizer r = make_requantizer(&finish, zero->out);
    const int32_t m = by->multipliers[0], n = by->multipliers[1], constant = (1 << (by->right - 1)) - zero->first * m - zero->second * n;
    if (by->right < DIRECT_LEAST || by->right > DIRECT_MOST) {
        const struct any_sum s = {r, vdupq_n_s32(constant), vdupq_n_s32(m), vdupq_n_s32(n), vdupq_n_s32(-by->right)};
        EVERY_RUN(sum_any, s)
        return;
    }
    const int32_t full = constant + zero->out * (1 << by->right);
    struct direct_sum s = {.r = r, .low_m = (int16_t)(m & 0xffff), .low_n = (int16_t)(n & 0xffff)};
    s.high_m = vdup_n_s8((int8_t)((m - s.low_m) >> 16)), s.high_n = vdup_n_s8((int8_t)((n - s.low_n) >> 16));
    vst1q_s32(s.below, vdupq_n_s32(full & 0xffff));
    vst1q_s16(s.above, vdupq_n_s16((int16_t)(full >> 16)));
    EVERY_RUN(sum_direct, s)
}

static int vector(const struct step *step) {
    const struct zeros zero = {step->in->zero, step->second->zero, step->out->zero};
    add_runs(&step->operation->add, &zero, step->from, step->other, step->to, (struct place){step->out->elements, 1, 0});
    return 1;
}

void add_residual(const struct plan *plan, const struct part *part, int32_t row, int32_t rows, void *out) {
    if (!plan->residual)
        return;
    const struct zeros zero = {plan->convolution->zero, plan->residual->zero, plan->out->zero};
    const int64_t channels = plan->out->channels, pixels = (int64_t)rows * plan->out->width;
    int8_t *to = (int8_t *)out + (int64_t)row * plan->out->width * channels + part->channel;
    struct place place = {part->channel_end - part->channel, pixels, channels};
    if (place.run == channels)
        place = (struct place){pixels * channels, 1, 0};
    add_runs(&plan->convolution->residual, &zero, to, to + plan->residual_distance, to, place);
}
#endif

const struct operation_kind add_kind = {
    .name = "add",
    .inputs = 2,
    .in_place = 1,
    .check = check,
    .portable = portable,
#if defined(__ARM_NEON)
    .vector = vector,
#endif
};
