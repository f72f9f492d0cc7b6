/* Depthwise convolution with one output per input channel: 16 channels at a time, products of two taps added in 16 bits
 * (|weight| <= 127 and |activation| <= 128, so 2 x 16256 fits), then widened. A layer with a weight of -128 adds one by one. */
#if defined(__ARM_NEON)
#include "depthwise.h"
#include "neon.h"
#include "unpack.h"

enum {
    NINE = 9,
    MAXIMUM_TAPS = 1024, /* more than networks have; larger kernels are left to plain C */
};

static size_t weight_bytes(const struct plan *plan) { return decoded_bytes(plan) + SLACK; }

static size_t scratch_bytes(const struct plan *plan) {
    size_t band = plan->copied ? (size_t)plan->band_rows * (size_t)plan->width * (size_t)plan->in->channels : 0;
    size_t packed = 0;
#if defined(__ARM_FEATURE_DOTPROD)
    packed = depthwise3_scratch(plan);
#endif
    return weight_bytes(plan) + band + SLACK + packed;
}

struct sums {
    int32x4_t v[4];
};

static inline struct sums widen(struct sums s, int16x8_t low, int16x8_t high) {
    s.v[0] = vaddw_s16(s.v[0], vget_low_s16(low));
    s.v[1] = vaddw_high_s16(s.v[1], low);
    s.v[2] = vaddw_s16(s.v[2], vget_low_s16(high));
    s.v[3] = vaddw_high_s16(s.v[3], high);
    return s;
}

static inline struct sums multiply_two(struct sums s, int8x16_t a, int8x16_t u, int8x16_t b, int8x16_t w) {
    int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(a), vget_low_s8(u)), vget_low_s8(b), vget_low_s8(w));
    return widen(s, low, vmlal_high_s8(vmull_high_s8(a, u), b, w));
}

static inline struct sums multiply_one(struct sums s, int8x16_t a, int8x16_t u) {
    return widen(s, vmull_s8(vget_low_s8(a), vget_low_s8(u)), vmull_high_s8(a, u));
}

static inline struct sums multiply(struct sums s, const int8_t *x, const int32_t *places, const int8_t *weights, int32_t taps,
                                   int64_t channels, int pairs) {
    int32_t tap = 0;
    for (; pairs && tap + 2 <= taps; tap += 2, weights += 2 * channels)
        s = multiply_two(s, vld1q_s8(x + places[tap]), vld1q_s8(weights), vld1q_s8(x + places[tap + 1]), vld1q_s8(weights + channels));
    for (; tap < taps; tap++, weights += channels)
        s = multiply_one(s, vld1q_s8(x + places[tap]), vld1q_s8(weights));
    return s;
}

/* 16 channels from ``channel`` on (``count`` of them exist) of one row of outputs. */
static inline __attribute__((always_inline)) void row(const struct plan *plan, const int8_t *source, const int32_t *places, const int8_t *weights,
                                                      const int32_t taps, int32_t channel, int32_t count, void *out, const int pairs,
                                                      const struct requantizer *given) {
    const struct finish *finish = &plan->convolution->finish;
    const struct requantizer r = *given; /* which no store can change */
    struct sums start, multiplier, offset;
    for (int v = 0; v < 4; v++) {
        start.v[v] = vld1q_s32(plan->compensation + channel + 4 * v);
        multiplier.v[v] = vld1q_s32(plan->multiplier + channel + 4 * v);
        offset.v[v] = vld1q_s32(plan->offset + channel + 4 * v);
    }
    int64_t channels = plan->out->channels, step = (int64_t)plan->convolution->stride_width * channels;
    int8x16_t kept[NINE]; /* the weights of a 3 x 3 kernel stay in registers */
    int64_t place[NINE];
    for (int tap = 0; taps == NINE && tap < NINE; tap++) {
        kept[tap] = vld1q_s8(weights + channel + tap * channels);
        place[tap] = places[tap];
    }
    for (int32_t x = 0; x < plan->out->width; x++) {
        const int8_t *from = source + x * step + channel;
        struct sums s = start;
        if (taps == NINE && pairs) {
            _Pragma("GCC unroll 4") for (int tap = 0; tap < NINE - 1; tap += 2)
                s = multiply_two(s, vld1q_s8(from + place[tap]), kept[tap], vld1q_s8(from + place[tap + 1]), kept[tap + 1]);
            s = multiply_one(s, vld1q_s8(from + place[NINE - 1]), kept[NINE - 1]);
        } else {
            s = multiply(s, from, places, weights + channel, taps, channels, pairs);
        }
        if (plan->out->floating) {
            float *to = (float *)out + x * channels + channel;
            int32_t some[16];
            for (int v = 0; v < 4; v++)
                vst1q_s32(some + 4 * v, s.v[v]);
            for (int32_t i = 0; i < count; i++) {
                float product = (float)some[i] * finish->scale[channel + i];
                to[i] = product + finish->shift[channel + i];
            }
            continue;
        }
        for (int v = 0; v < 4; v++)
            s.v[v] = plan->direct ? requantize_direct(&r, s.v[v], multiplier.v[v], plan->offset + channel + 4 * v)
                                  : requantize(&r, s.v[v], multiplier.v[v], offset.v[v]);
        int8x16_t bytes = plan->direct ? narrow_direct(&r, s.v[0], s.v[1], s.v[2], s.v[3]) : narrow(&r, s.v[0], s.v[1], s.v[2], s.v[3]);
        int8_t *to = (int8_t *)out + x * channels + channel;
        if (count == 16) {
            vst1q_s8(to, bytes);
        } else {
            int8_t some[16];
            vst1q_s8(some, bytes);
            memcpy(to, some, (size_t)count);
        }
    }
}

static void run(const struct plan *plan, const struct part *part, const void *in, void *out, uint8_t *scratch) {
    const struct convolution *c = plan->convolution;
    int8_t *weights = (int8_t *)scratch, *copy = weights + weight_bytes(plan);
    int32_t channels = plan->out->channels, taps = plan->segment_count;
    int32_t places[MAXIMUM_TAPS];
    for (int32_t i = 0; i < taps; i++)
        places[i] = plan->segments[i].offset;
    unpack_tiles(c, 0, decoded_bytes(plan) / TILE, weights, TILE);
    const struct requantizer r = make_requantizer(&c->finish, c->zero);
    int pairs = 1;
    for (size_t i = 0; i < decoded_bytes(plan); i += 16)
        pairs &= vminvq_s8(vld1q_s8(weights + i)) > -128;
#if defined(__ARM_FEATURE_DOTPROD)
    int dots = depthwise3_fits(plan);
    int8_t *packed = (int8_t *)scratch + scratch_bytes(plan) - depthwise3_scratch(plan);
    if (dots)
        depthwise3_pack(plan, weights, packed);
#endif
    int64_t line = (int64_t)plan->width * channels, down = line * c->stride_height;
    for (int32_t first = part->row; first < part->row_end; first += plan->band) {
        const struct band band = plan_band(plan, part, first, in, copy);
        const int8_t *source = (const int8_t *)band.source;
        const int32_t rows = band.rows;
#if defined(__ARM_FEATURE_DOTPROD)
        if (dots && rows > 1) {
            depthwise3_band(plan, part, source, rows, packed, (int8_t *)out + (int64_t)first * plan->out->width * channels);
            add_residual(plan, part, first, rows, out);
            continue;
        }
#endif
        for (int32_t y = 0; y < rows; y++) {
            int64_t element = ((int64_t)first + y) * plan->out->width * channels;
            void *to = (uint8_t *)out + element * (plan->out->floating ? 4 : 1);
            for (int32_t channel = part->channel; channel < part->channel_end; channel += 16) {
                int32_t count = channels - channel < 16 ? channels - channel : 16;
                if (pairs && taps == NINE)
                    row(plan, source + y * down, places, weights, NINE, channel, count, to, 1, &r);
                else if (pairs)
                    row(plan, source + y * down, places, weights, taps, channel, count, to, 1, &r);
                else
                    row(plan, source + y * down, places, weights, taps, channel, count, to, 0, &r);
            }
        }
        add_residual(plan, part, first, rows, out);
    }
}

static int fits(const struct plan *plan) {
    return !plan->in->floating && plan->convolution->depthwise && plan->out->channels == plan->in->channels && plan->k <= MAXIMUM_TAPS;
}

static int prepare(struct plan *plan) {
    plan->whole_channels = plan->out->channels % 16 != 0; /* the last ones would be written twice */
    return 1;
}

const struct kernel depthwise_kernel = {.name = "depthwise", .fits = fits, .prepare = prepare, .scratch = scratch_bytes, .run = run};
#endif
