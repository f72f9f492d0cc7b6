/* Static rANS (Duda 2013, arXiv 1311.2540): frequencies of 12 bits, states of 32, at most one word of 16 a symbol. Whatever the
 * stream holds, a state stays below 2**32: f (x >> 12) + bias is at most 4096 (2**20 - 1) + 4095. */
#include "entropy.h"

#include <stdlib.h>
#include <string.h>

#include "network.h"
#include "unpack.h"

/* A condition that asks for a conditional move: a branch would be wrong every other time. */
#if defined(__clang__)
#define UNPREDICTABLE(condition) __builtin_unpredictable(condition)
#else
#define UNPREDICTABLE(condition) (condition)
#endif

enum { FREQUENCY_BITS = 12, TOTAL = 1 << FREQUENCY_BITS, LEAST = 1 << 16 };

static inline uint32_t frequency(const uint8_t *coded, int32_t symbol) {
    return (uint32_t)coded[2 * symbol] | (uint32_t)coded[2 * symbol + 1] << 8;
}

int entropy_fits(const uint8_t *coded, size_t bytes, int32_t bits, int32_t lanes, int64_t entries) {
    uint32_t total = 0;
    if (lanes < 1 || lanes & (lanes - 1) || lanes > entries || entries > (int64_t)lanes * MOST_LANE_ENTRIES)
        return 0;
    if (bytes < ((size_t)2 << bits) + 4 * (size_t)lanes || bytes % 2)
        return 0;
    for (int32_t symbol = 0; symbol < 1 << bits; symbol++)
        total += frequency(coded, symbol);
    return total == TOTAL;
}

/* By the low 12 bits of a state: its symbol (bits 0..3), the symbol's frequency (4..16), the place among its own (17..28). */
static void fill_slots(const uint8_t *coded, int32_t bits, uint32_t *slots) {
    for (int32_t symbol = 0; symbol < 1 << bits; symbol++)
        for (uint32_t count = frequency(coded, symbol), place = 0; place < count; place++)
            *slots++ = (uint32_t)symbol | count << 4 | place << 17;
}

static void pack_tile(const uint8_t *entry, int32_t bits, uint8_t *packed) {
    if (bits == 4) {
        for (int j = 0; j < 16; j++)
            packed[j] = (uint8_t)(entry[j] | entry[j + 16] << 4);
        return;
    }
    for (int j = 0; j < 8; j++)
        packed[j] = (uint8_t)((entry[j] & 3) | (entry[j + 8] & 3) << 2 | (entry[j + 16] & 3) << 4 | (entry[j + 24] & 3) << 6);
    for (int j = 0; bits == 3 && j < 4; j++) {
        uint32_t high = 0;
        for (int position = 0; position < 8; position++)
            high |= (uint32_t)(entry[j + 4 * position] >> 2) << position;
        packed[8 + j] = (uint8_t)high;
    }
}

/* One entry of each of ``count`` lanes (at most TILE); returns where the words go on, at most ``count`` further. */
static inline const uint16_t *decode_lanes(const uint32_t *slots, uint32_t *states, int count, const uint16_t *words, uint8_t *entries) {
    int taken = 0;
    _Pragma("GCC unroll 8") for (int lane = 0; lane < count; lane++) {
        uint32_t state = states[lane], slot = slots[state & (TOTAL - 1)];
        entries[lane] = slot & 15;
        state = (slot >> 4 & 8191) * (state >> FREQUENCY_BITS) + (slot >> 17);
        uint32_t filled = state << 16 | words[taken];
        int is_short = state < LEAST;
        states[lane] = UNPREDICTABLE(is_short) ? filled : state;
        taken += is_short;
    }
    return words + taken;
}

int entropy_decode(const uint8_t *coded, size_t bytes, int32_t bits, int32_t lanes, uint8_t *packed, size_t tiles) {
    uint32_t *slots = malloc((TOTAL + (size_t)lanes) * sizeof *slots), *states = slots + TOTAL;
    if (!slots)
        return NETWORK_MEMORY;
    const uint8_t *start = coded + ((size_t)2 << bits);
    fill_slots(coded, bits, slots);
    memcpy(states, start, (size_t)lanes * sizeof *states);
    const uint16_t *words = (const uint16_t *)(const void *)(start + 4 * (size_t)lanes), *end = (const uint16_t *)(const void *)(coded + bytes);
    uint16_t last[2 * TILE] = {0}; /* the end of the words, and zeros that a damaged stream may read */
    int is_last = 0;
    size_t lane = 0;
    for (size_t tile = 0; tile < tiles && words <= end; tile++, packed += 4 * bits) {
        uint8_t entries[TILE];
        size_t left = (size_t)(end - words);
        if (left < TILE && !is_last) { /* a tile reads a word at most for each entry, and looks at one more */
            memcpy(last, words, left * sizeof *words);
            words = last;
            end = last + left;
            is_last = 1;
        }
        if (lanes >= TILE) {
            words = decode_lanes(slots, states + lane, TILE, words, entries);
            lane = (lane + TILE) & ((size_t)lanes - 1);
        } else {
            for (int first = 0; first < TILE; first += lanes)
                words = decode_lanes(slots, states, lanes, words, entries + first);
        }
        pack_tile(entries, bits, packed);
    }
    int status = words == end ? NETWORK_OK : NETWORK_DAMAGED;
    for (int32_t i = 0; i < lanes; i++)
        if (states[i] != LEAST)
            status = NETWORK_DAMAGED;
    free(slots);
    return status;
}
