#include "unpack.h"

#include <string.h>

#if defined(__ARM_NEON)
#include <arm_neon.h>

/* The entries of one tile: of four channels, and of the other four. */
static inline int8x16x2_t tile_8(const uint8_t *in, int8x16_t levels) {
    (void)levels;
    return (int8x16x2_t){{vreinterpretq_s8_u8(vld1q_u8(in)), vreinterpretq_s8_u8(vld1q_u8(in + 16))}};
}

static inline int8x16x2_t tile_4(const uint8_t *in, int8x16_t levels) {
    uint8x16_t packed = vld1q_u8(in);
    return (int8x16x2_t){{vqtbl1q_s8(levels, vandq_u8(packed, vdupq_n_u8(15))), vqtbl1q_s8(levels, vshrq_n_u8(packed, 4))}};
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

static inline int8x16x2_t tile_2(const uint8_t *in, int8x16_t levels) {
    uint8x16x2_t pairs = low_pairs(in);
    return (int8x16x2_t){{vqtbl1q_s8(levels, pairs.val[0]), vqtbl1q_s8(levels, pairs.val[1])}};
}

static inline int8x16x2_t tile_3(const uint8_t *in, int8x16_t levels) {
    static const uint8_t bits[32] = {1,  1,  1,  1,  2,  2,  2,  2,  4,  4,  4,  4,  8,   8,   8,   8,
                                     16, 16, 16, 16, 32, 32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 128};
    const uint8x16_t four = vdupq_n_u8(4);
    uint8x16x2_t pairs = low_pairs(in);
    uint32_t word;
    memcpy(&word, in + 8, 4);
    uint8x16_t high = vreinterpretq_u8_u32(vdupq_n_u32(word));
    uint8x16_t a = vorrq_u8(pairs.val[0], vandq_u8(vtstq_u8(high, vld1q_u8(bits)), four));
    uint8x16_t b = vorrq_u8(pairs.val[1], vandq_u8(vtstq_u8(high, vld1q_u8(bits + 16)), four));
    return (int8x16x2_t){{vqtbl1q_s8(levels, a), vqtbl1q_s8(levels, b)}};
}

static inline void store_interleaved(int8x16_t a, int8x16_t b, int8_t *out) {
    int32x4_t first = vreinterpretq_s32_s8(a), second = vreinterpretq_s32_s8(b);
    vst1q_s8(out, vreinterpretq_s8_s32(vzip1q_s32(first, second)));
    vst1q_s8(out + 16, vreinterpretq_s8_s32(vzip2q_s32(first, second)));
}

/* Two tiles as unpack_pairs stores them. */
#define STORE_PAIR(bits)                                                                                                 \
    static inline void store_pair_##bits(const uint8_t *in, int8_t *out, int8x16_t levels) {                             \
        int8x16x2_t a = tile_##bits(in, levels), b = tile_##bits(in + 4 * bits, levels);                                 \
        store_interleaved(a.val[0], b.val[0], out);                                                                      \
        store_interleaved(a.val[1], b.val[1], out + 32);                                                                 \
    }
STORE_PAIR(2)
STORE_PAIR(3)
STORE_PAIR(8)

/* The same with the bytes brought into order before the levels take their place: half as many. */
static inline void store_pair_4(const uint8_t *in, int8_t *out, int8x16_t levels) {
    const uint8x16_t mask = vdupq_n_u8(15);
    uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(in)), b = vreinterpretq_u32_u8(vld1q_u8(in + 16));
    uint8x16_t first = vreinterpretq_u8_u32(vzip1q_u32(a, b)), second = vreinterpretq_u8_u32(vzip2q_u32(a, b));
    vst1q_s8(out, vqtbl1q_s8(levels, vandq_u8(first, mask)));
    vst1q_s8(out + 16, vqtbl1q_s8(levels, vandq_u8(second, mask)));
    vst1q_s8(out + 32, vqtbl1q_s8(levels, vshrq_n_u8(first, 4)));
    vst1q_s8(out + 48, vqtbl1q_s8(levels, vshrq_n_u8(second, 4)));
}

#define UNPACK(bits)                                                                                                     \
    static void unpack_##bits(const uint8_t *in, size_t count, int8_t *out, size_t stride, int8x16_t levels) {           \
        for (; count; count--, in += 4 * bits, out += stride) {                                                          \
            int8x16x2_t tile = tile_##bits(in, levels);                                                                  \
            vst1q_s8(out, tile.val[0]);                                                                                  \
            vst1q_s8(out + 16, tile.val[1]);                                                                             \
        }                                                                                                                \
    }                                                                                                                    \
    static void unpack_pairs_##bits(const uint8_t *in, size_t count, int8_t *out, size_t stride, int8x16_t levels) {     \
        _Pragma("GCC unroll 2") for (; count; count--, in += 8 * bits, out += stride)                                    \
            store_pair_##bits(in, out, levels);                                                                          \
    }
UNPACK(2)
UNPACK(3)
UNPACK(4)
UNPACK(8)

#define UNPACK_HALVES(bits)                                                                                              \
    static void unpack_halves_##bits(const uint8_t *in, size_t count, int8_t *out, int8x16_t levels) {                   \
        for (; count; count--, in += 4 * bits, out += TILE) {                                                            \
            int8x16x2_t tile = tile_##bits(in, levels);                                                                  \
            int32x4_t a = vreinterpretq_s32_s8(tile.val[0]), b = vreinterpretq_s32_s8(tile.val[1]);                      \
            vst1q_s8(out, vreinterpretq_s8_s32(vuzp1q_s32(a, b)));                                                       \
            vst1q_s8(out + 16, vreinterpretq_s8_s32(vuzp2q_s32(a, b)));                                                  \
        }                                                                                                                \
    }
UNPACK_HALVES(2)
UNPACK_HALVES(3)
UNPACK_HALVES(4)
UNPACK_HALVES(8)

void unpack_halves(const struct convolution *convolution, size_t first, size_t count, int8_t *out) {
    const uint8_t *in = convolution->packed + first * 4 * (size_t)convolution->bits;
    switch (convolution->bits) {
    case 2: unpack_halves_2(in, count, out, vld1q_s8(convolution->levels)); break;
    case 3: unpack_halves_3(in, count, out, vld1q_s8(convolution->levels)); break;
    case 4: unpack_halves_4(in, count, out, vld1q_s8(convolution->levels)); break;
    default: unpack_halves_8(in, count, out, vdupq_n_s8(0));
    }
}

void unpack_pairs(const struct convolution *convolution, size_t first, size_t count, int8_t *out, size_t stride) {
    const uint8_t *in = convolution->packed + first * 4 * (size_t)convolution->bits;
    switch (convolution->bits) {
    case 2: unpack_pairs_2(in, count, out, stride, vld1q_s8(convolution->levels)); break;
    case 3: unpack_pairs_3(in, count, out, stride, vld1q_s8(convolution->levels)); break;
    case 4: unpack_pairs_4(in, count, out, stride, vld1q_s8(convolution->levels)); break;
    default: unpack_pairs_8(in, count, out, stride, vdupq_n_s8(0));
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

static void unpack_8(const uint8_t *in, size_t count, int8_t *out, size_t stride, const int8_t *levels) {
    (void)levels;
    for (; count; count--, in += TILE, out += stride)
        memcpy(out, in, TILE);
}
#endif

void unpack_tiles(const struct convolution *convolution, size_t first, size_t count, int8_t *out, size_t stride) {
    const uint8_t *in = convolution->packed + first * 4 * (size_t)convolution->bits;
    switch (convolution->bits) {
    case 2: unpack_2(in, count, out, stride, vld1q_s8(convolution->levels)); break;
    case 3: unpack_3(in, count, out, stride, vld1q_s8(convolution->levels)); break;
    case 4: unpack_4(in, count, out, stride, vld1q_s8(convolution->levels)); break;
    default: unpack_8(in, count, out, stride, vld1q_s8(convolution->levels));
    }
}

size_t unpack_quad(const struct convolution *convolution, int32_t quad, int32_t count, size_t first, int8_t *rows) {
    const size_t row = (size_t)count * OCTET;
    size_t found = 0;
    memset(rows, 0, QUAD * row);
    for (int32_t block = 0; block < count; block++) {
        if (!is_kept(convolution, quad, block, count))
            continue;
        int8_t tile[TILE];
        unpack_tiles(convolution, first + found++, 1, tile, TILE);
        for (size_t o = 0; o < QUAD; o++)
            memcpy(rows + o * row + (size_t)block * OCTET, tile + OCTET * o, OCTET);
    }
    return found;
}
