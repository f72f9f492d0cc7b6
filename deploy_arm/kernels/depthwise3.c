/* Depthwise convolution with 3 x 3 kernels by dot products: the bytes of four rows of one column side by side are four taps, so one
 * instruction makes 16 products (12 of use). 8 channels and two rows of outputs at a time; the interleaved columns slide.
 *
 * With a vertical stride of 1 the four rows y..y+3 serve both rows of outputs, against weights (a b c 0) and (0 a b c). With a
 * stride of 2 each row of outputs has interleaved rows of its own, y..y+3 and y+2..y+5, the last of which meets zero. */
#if defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
#include "depthwise.h"
#include "neon.h"

enum { EIGHT = 8 };

int depthwise3_fits(const struct plan *plan) {
    const struct convolution *c = plan->convolution;
    return plan->direct && c->kernel_height == 3 && c->kernel_width == 3 && c->dilation_height == 1 && c->dilation_width == 1 &&
           c->stride_height == c->stride_width && c->stride_width <= 2 && plan->out->channels >= EIGHT;
}

static int32_t block_channel(const struct plan *plan, int32_t block) { /* the last block may overlap the one before */
    int32_t last = plan->out->channels - EIGHT;
    return block * EIGHT < last ? block * EIGHT : last;
}

/* Four taps of 8 channels side by side: of channels 0..3, and 4..7. */
struct column {
    int8x16_t v[2];
};

static inline int8x16_t beside(int8x8_t a, int8x8_t b) { return vzip1q_s8(vcombine_s8(a, a), vcombine_s8(b, b)); }

static inline struct column interleave(int8x16_t first, int8x16_t second) {
    int16x8_t a = vreinterpretq_s16_s8(first), b = vreinterpretq_s16_s8(second);
    return (struct column){{vreinterpretq_s8_s16(vzip1q_s16(a, b)), vreinterpretq_s8_s16(vzip2q_s16(a, b))}};
}

/* The weights of 8 channels at ``out``: three columns (a b c 0), then three (0 a b c). */
static void pack(const int8_t *weights, int64_t channels, int8_t *out) {
    const int8x8_t zero = vdup_n_s8(0);
    for (int j = 0; j < 3; j++, out += 32) {
        int8x8_t a = vld1_s8(weights + j * channels), b = vld1_s8(weights + (3 + j) * channels), c = vld1_s8(weights + (6 + j) * channels);
        struct column first = interleave(beside(a, b), beside(c, zero)), second = interleave(beside(zero, a), beside(b, c));
        for (int v = 0; v < 2; v++) {
            vst1q_s8(out + 16 * v, first.v[v]);
            vst1q_s8(out + 96 + 16 * v, second.v[v]);
        }
    }
}

size_t depthwise3_scratch(const struct plan *plan) { return ((size_t)plan->out->channels + EIGHT - 1) / EIGHT * 192; }

void depthwise3_pack(const struct plan *plan, const int8_t *weights, int8_t *packed) {
    for (int32_t block = 0; block * EIGHT < plan->out->channels; block++)
        pack(weights + block_channel(plan, block), plan->out->channels, packed + block * 192);
}

struct two_rows {
    struct column row[2]; /* of outputs; the same interleaved rows where the stride is 1 */
};

static inline __attribute__((always_inline)) struct two_rows load_column(const int stride, const int8_t *from, int64_t line) {
    struct two_rows r;
    int8x16_t a = beside(vld1_s8(from), vld1_s8(from + line)), b = beside(vld1_s8(from + 2 * line), vld1_s8(from + 3 * line));
    r.row[0] = r.row[1] = interleave(a, b);
    if (stride == 2) {
        int8x8_t last = vld1_s8(from + 4 * line);
        r.row[1] = interleave(b, beside(last, last));
    }
    return r;
}

/* 8 channels of two rows of outputs; ``line`` bytes from row to row of the input. */
static inline __attribute__((always_inline)) void two_rows(const int stride, const struct plan *plan, const int8_t *from, int64_t line,
                                                           const int8_t *packed, int32_t channel, int8_t *to, int8_t *below) {
    const struct requantizer r = make_requantizer(&plan->convolution->finish, plan->convolution->zero);
    const int32_t *start = plan->compensation + channel, *offset = plan->offset + channel;
    const int32x4_t multiplier[2] = {vld1q_s32(plan->multiplier + channel), vld1q_s32(plan->multiplier + channel + 4)};
    const int64_t step = plan->out->channels;
    int8x16_t weights[12];
    for (int i = 0; i < 12; i++)
        weights[i] = vld1q_s8(packed + 16 * i);
    struct two_rows a = load_column(stride, from, line), b, c;
    from += step;
    if (stride == 1) {
        b = load_column(1, from, line);
        from += step;
    }
#define PUT(x, y, z)                                                                                                        \
    {                                                                                                                       \
        int32x4_t acc[2][2];                                                                                                \
        _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) _Pragma("GCC unroll 2") for (int v = 0; v < 2; v++) {           \
            const int8x16_t *w = weights + (stride == 1 ? 6 * i : 0) + v;                                                   \
            int32x4_t sum = vdotq_s32(again(start + 4 * v), x.row[i].v[v], w[0]);                                           \
            sum = vdotq_s32(vdotq_s32(sum, y.row[i].v[v], w[2]), z.row[i].v[v], w[4]);                                      \
            acc[i][v] = requantize_direct(&r, sum, multiplier[v], offset + 4 * v);                                          \
        }                                                                                                                   \
        int8x16_t bytes = narrow_direct(&r, acc[0][0], acc[0][1], acc[1][0], acc[1][1]);                                    \
        vst1_s8(to, vget_low_s8(bytes));                                                                                    \
        vst1_s8(below, vget_high_s8(bytes));                                                                                \
        to += step, below += step;                                                                                          \
    }
#define NEXT(x) x = load_column(stride, from, line), from += step;
    int32_t left = plan->out->width;
    if (stride == 1) {
        for (; left >= 3; left -= 3) { /* one loop body without branches, in which the columns change places */
            NEXT(c)
            PUT(a, b, c)
            NEXT(a)
            PUT(b, c, a)
            NEXT(b)
            PUT(c, a, b)
        }
        if (left > 0) {
            NEXT(c)
            PUT(a, b, c)
        }
        if (left > 1) {
            NEXT(a)
            PUT(b, c, a)
        }
        return;
    }
    for (; left >= 2; left -= 2) {
        NEXT(b)
        NEXT(c)
        PUT(a, b, c)
        NEXT(b)
        NEXT(a)
        PUT(c, b, a)
    }
    if (left) {
        NEXT(b)
        NEXT(c)
        PUT(a, b, c)
    }
#undef NEXT
#undef PUT
}

/* A band: ``rows`` (at least 2) of outputs from ``source`` on; an odd last row is done together with the one before, again. */
void depthwise3_band(const struct plan *plan, const struct part *part, const int8_t *source, int32_t rows, const int8_t *packed, int8_t *out) {
    const int64_t channels = plan->out->channels, line = (int64_t)plan->width * channels, across = (int64_t)plan->out->width * channels;
    for (int32_t y = 0; y < rows; y += 2) {
        int32_t row = y + 2 <= rows ? y : rows - 2;
        for (int32_t block = part->channel / EIGHT; block * EIGHT < part->channel_end; block++) {
            int32_t channel = block_channel(plan, block);
            int8_t *to = out + row * across + channel;
            const int8_t *from = source + row * line * plan->convolution->stride_height + channel;
            if (plan->convolution->stride_height == 1)
                two_rows(1, plan, from, line, packed + block * 192, channel, to, to + across);
            else
                two_rows(2, plan, from, line, packed + block * 192, channel, to, to + across);
        }
    }
}
#endif
