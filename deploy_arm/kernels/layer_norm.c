/* Layer norm over the channels of each position, in integers alone: see LayerNorm in ../ir/graph.py. Both the distance from the mean
 * and the variance stay the same when all values shift, so the stored bytes serve as they are. */
#include <string.h>

#include "blob_checks.h"
#include "operations.h"
#include "requantize.h"

#if defined(__ARM_NEON)
#include "neon.h"
#endif

static int check(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    struct layer_norm *norm = &operation->layer_norm;
    memcpy(&norm->epsilon, word + 4, 8);
    REQUIRE(same_shape(in, out) && !in->floating && in->channels <= MAXIMUM_NORM, "a layer norm's shapes differ, or it has too many channels");
    REQUIRE(within(norm->epsilon, 1, (int64_t)1 << 60), "a layer norm's epsilon is out of range");
    return check_finish(blob, &norm->finish, out, word[6], word[7], word[8], out->channels, word + 9);
}

/* floor(sqrt(square)) of a number below 2**62 */
static int64_t square_root(int64_t square) {
#if defined(__ARM_NEON)
    int64_t root = (int64_t)vget_lane_f64(vsqrt_f64(vdup_n_f64((double)square)), 0);
    root -= root * root > square;
    return root + ((root + 1) * (root + 1) <= square);
#else
    int64_t root = 0;
    for (int64_t bit = (int64_t)1 << 30; bit; bit >>= 1)
        if ((root + bit) * (root + bit) <= square)
            root += bit;
    return root;
#endif
}

/* r of ../ir/graph.py; *right is the shift behind it. */
static int32_t reciprocal(int64_t spread, int32_t *right) {
    int32_t shift = (__builtin_clzll((unsigned long long)spread) - 2) & ~1;
    int64_t r = ((int64_t)1 << 61) / square_root(spread << shift);
    *right = 45 - shift / 2;
    return r > INT32_MAX ? INT32_MAX : (int32_t)r;
}

static void finish_some(const struct layer_norm *norm, const struct tensor *out, const int8_t *from, int32_t start, int64_t total, int32_t r,
                        int32_t right, void *to, int64_t index) {
    for (int32_t c = start; c < out->channels; c++) {
        int64_t acc = ((out->channels * (int64_t)from[c] - total) * r + ((int64_t)1 << (right - 1))) >> right;
        portable_put(to, index + c, (uint32_t)acc, &norm->finish, c, out->zero);
    }
}

static void portable(const struct step *step) {
    const struct operation *operation = step->operation;
    const struct tensor *out = step->out;
    const int8_t *from = step->from;
    void *to = step->to;
    int64_t n = out->channels;
    for (int64_t index = 0; index < out->elements; index += n, from += n) {
        int64_t total = 0, squares = 0;
        for (int64_t c = 0; c < n; c++) {
            total += from[c];
            squares += from[c] * from[c];
        }
        int32_t right, r = reciprocal(n * squares - total * total + operation->layer_norm.epsilon, &right);
        finish_some(&operation->layer_norm, out, from, 0, total, r, right, to, index);
    }
}

#if defined(__ARM_NEON)
/* acc of four channels: n x - total, times r, shifted with rounding */
static inline int32x4_t normalize(int16x4_t x, int32_t n, int32x4_t total, int32x2_t r, int64x2_t minus_right) {
    int32x4_t d = vsubq_s32(vmulq_n_s32(vmovl_s16(x), n), total);
    int64x2_t low = vrshlq_s64(vmull_s32(vget_low_s32(d), r), minus_right);
    int64x2_t high = vrshlq_s64(vmull_s32(vget_high_s32(d), r), minus_right);
    return vcombine_s32(vmovn_s64(low), vmovn_s64(high));
}

static int vector(const struct step *step) {
    const struct operation *operation = step->operation;
    const struct tensor *out = step->out;
    const int8_t *from = step->from;
    int8_t *to = step->to;
    const struct finish *finish = &operation->layer_norm.finish;
    if (finish->scale)
        return 0;
    const struct requantizer q = make_requantizer(finish, out->zero);
    int32_t n = out->channels, whole = n / 16 * 16;
    for (int64_t index = 0; index < out->elements; index += n, from += n) {
        int32x4_t sums = vdupq_n_s32(0), products = sums;
        for (int32_t c = 0; c < whole; c += 16) {
            int8x16_t x = vld1q_s8(from + c);
            sums = vpadalq_s16(sums, vpaddlq_s8(x));
            products = vpadalq_s16(products, vmull_s8(vget_low_s8(x), vget_low_s8(x)));
            products = vpadalq_s16(products, vmull_high_s8(x, x));
        }
        int64_t total = vaddvq_s32(sums), squares = vaddvq_s32(products);
        for (int32_t c = whole; c < n; c++) {
            total += from[c];
            squares += from[c] * from[c];
        }
        int32_t right, r = reciprocal(n * squares - total * total + operation->layer_norm.epsilon, &right);
        int32x4_t all = vdupq_n_s32((int32_t)total);
        int32x2_t factor = vdup_n_s32(r);
        int64x2_t minus_right = vdupq_n_s64(-right);
        for (int32_t c = 0; c < whole; c += 16) {
            int8x16_t x = vld1q_s8(from + c);
            int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_high_s8(x);
            int16x4_t part[4] = {vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)};
            int32x4_t acc[4];
            for (int v = 0; v < 4; v++)
                acc[v] = requantize(&q, normalize(part[v], n, all, factor, minus_right), vld1q_s32(finish->multiplier + c + 4 * v),
                                    vld1q_s32(finish->offset + c + 4 * v));
            vst1q_s8(to + index + c, narrow(&q, acc[0], acc[1], acc[2], acc[3]));
        }
        finish_some(&operation->layer_norm, out, from, whole, total, r, right, to, index);
    }
    return 1;
}
#endif

const struct operation_kind layer_norm_kind = {
    .name = "layer_norm",
    .inputs = 1,
    .check = check,
    .portable = portable,
#if defined(__ARM_NEON)
    .vector = vector,
#endif
};
