#include "unpack.h"

#include <string.h>

#if defined(__ARM_NEON)
#include <arm_neon.h>

static void unpack_4(const uint8_t *in, size_t count, int8_t *out, size_t stride, int8x16_t levels) {
    const uint8x16_t mask = vdupq_n_u8(15);
    for (; count; count--, in += 16, out += stride) {
        uint8x16_t packed = vld1q_u8(in);
        vst1q_s8(out, vqtbl1q_s8(levels, vandq_u8(packed, mask)));
        vst1q_s8(out + 16, vqtbl1q_s8(levels, vshrq_n_u8(packed, 4)));
    }
}

/* The low two bits of entries 0..15 and 16..31: byte j holds entries j, j + 8, j + 16, j + 24. */
static inline uint8x16x2_t low_pairs(const uint8_t *in) {
    static const int8_t shift[16] = {0, 0, 0, 0, 0, 0, 0, 0, -2, -2, -2, -2, -2, -2, -2, -2};
    const int8x16_t by = vld1q_s8(shift);
    const uint8x16_t mask = vdupq_n_u8(3);
    uint8x8_t half = vld1_u8(in);
    uint8x16_t packed = vcombine_u8(half, half);
    uint8x16x2_t pairs;
    pairs.val[0] = vandq_u8(vshlq_u8(packed, by), mask);
    pairs.val[1] = vandq_u8(vshlq_u8(packed, vsubq_s8(by, vdupq_n_s8(4))), mask);
    return pairs;
}

static void unpack_2(const uint8_t *in, size_t count, int8_t *out, size_t stride, int8x16_t levels) {
    for (; count; count--, in += 8, out += stride) {
        uint8x16x2_t pairs = low_pairs(in);
        vst1q_s8(out, vqtbl1q_s8(levels, pairs.val[0]));
        vst1q_s8(out + 16, vqtbl1q_s8(levels, pairs.val[1]));
    }
}

static void unpack_3(const uint8_t *in, size_t count, int8_t *out, size_t stride, int8x16_t levels) {
    static const uint8_t bits[32] = {1,  1,  1,  1,  2,  2,  2,  2,  4,  4,  4,  4,  8,   8,   8,   8,
                                     16, 16, 16, 16, 32, 32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 128};
    const uint8x16_t first = vld1q_u8(bits), second = vld1q_u8(bits + 16), four = vdupq_n_u8(4);
    for (; count; count--, in += 12, out += stride) {
        uint8x16x2_t pairs = low_pairs(in);
        uint32_t word;
        memcpy(&word, in + 8, 4);
        uint8x16_t high = vreinterpretq_u8_u32(vdupq_n_u32(word));
        uint8x16_t a = vorrq_u8(pairs.val[0], vandq_u8(vtstq_u8(high, first), four));
        uint8x16_t b = vorrq_u8(pairs.val[1], vandq_u8(vtstq_u8(high, second), four));
        vst1q_s8(out, vqtbl1q_s8(levels, a));
        vst1q_s8(out + 16, vqtbl1q_s8(levels, b));
    }
}

#else

typedef const int8_t *int8x16_t;
#define vld1q_s8(p) (p)

static void unpack_4(const uint8_t *in, size_t count, int8_t *out, size_t stride, const int8_t *levels) {
    for (; count; count--, in += 16, out += stride)
        for (int j = 0; j < TILE; j++)
            out[j] = levels[(in[j % 16] >> (j / 16 * 4)) & 15];
}

static void unpack_2(const uint8_t *in, size_t count, int8_t *out, size_t stride, const int8_t *levels) {
    for (; count; count--, in += 8, out += stride)
        for (int j = 0; j < TILE; j++)
            out[j] = levels[(in[j % 8] >> (j / 8 * 2)) & 3];
}

static void unpack_3(const uint8_t *in, size_t count, int8_t *out, size_t stride, const int8_t *levels) {
    for (; count; count--, in += 12, out += stride)
        for (int j = 0; j < TILE; j++)
            out[j] = levels[((in[j % 8] >> (j / 8 * 2)) & 3) | ((in[8 + j % 4] >> (j / 4) & 1) << 2)];
}
#endif

void unpack_tiles(const struct convolution *convolution, size_t first, size_t count, int8_t *out, size_t stride) {
    const uint8_t *in = convolution->packed + first * 4 * (size_t)convolution->bits;
    switch (convolution->bits) {
    case 2: unpack_2(in, count, out, stride, vld1q_s8(convolution->levels)); break;
    case 3: unpack_3(in, count, out, stride, vld1q_s8(convolution->levels)); break;
    case 4: unpack_4(in, count, out, stride, vld1q_s8(convolution->levels)); break;
    default:
        for (; count; count--, in += TILE, out += stride)
            memcpy(out, in, TILE);
    }
}
