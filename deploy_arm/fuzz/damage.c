#include "damage.h"

#include <stdlib.h>
#include <string.h>

#include "runtime.h"

enum { HEADER = 64, MOST_STEPS = 1000000 /* of an inference that is run */ };

static uint64_t state;

static uint32_t random_below(uint32_t limit) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(((state >> 33) * limit) >> 31);
}

static void damage_word(uint8_t *at) {
    static const int32_t values[] = {0, 1, -1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 64, 127, 128, 255, 256, 65535, 65536, 1 << 20, INT32_MAX, INT32_MIN};
    int32_t value;
    memcpy(&value, at, 4);
    switch (random_below(4)) {
    case 0: value = values[random_below(sizeof values / sizeof *values)]; break;
    case 1: value = (int32_t)((uint32_t)value + random_below(5) - 2); break;
    case 2: value = (int32_t)((uint32_t)value ^ 1u << random_below(32)); break;
    default: value = (int32_t)random_below(UINT32_MAX);
    }
    memcpy(at, &value, 4);
}

/* A word of the coded weights of an operation, mostly of their table and first states; nothing where it has none. */
static void damage_code(uint8_t *data, size_t bytes, uint32_t operation) {
    uint32_t table, word[32];
    memcpy(&table, data + 36, 4);
    size_t place = (size_t)table + sizeof word * operation;
    if (place > bytes || bytes - place < sizeof word)
        return;
    memcpy(word, data + place, sizeof word);
    if (word[0] != CONVOLUTION || !word[30] || word[18] % 4 || word[18] > bytes || word[19] > bytes - word[18] || word[19] < 4)
        return;
    uint32_t words = random_below(2) && word[19] > 48 ? 12 : word[19] / 4;
    damage_word(data + word[18] + 4 * random_below(words));
}

size_t damage(uint8_t *data, size_t bytes, uint64_t seed) {
    uint32_t operations;
    state = seed;
    memcpy(&operations, data + 28, 4); /* the tables that hold all offsets end behind them */
    size_t end = HEADER + 32 * 40 + 128 * (size_t)operations;
    end = end < bytes ? end : bytes;
    for (uint32_t i = 1 + random_below(3); i; i--) {
        switch (random_below(8)) {
        case 0: data[random_below((uint32_t)bytes)] ^= (uint8_t)(1u << random_below(8)); break;
        case 1: damage_word(data + random_below((uint32_t)bytes / 4) * 4); break;
        case 2: damage_word(data + 24 + random_below(10) * 4); break;
        case 3: damage_code(data, bytes, random_below(operations)); break;
        default: damage_word(data + HEADER + random_below((uint32_t)(end - HEADER) / 4) * 4);
        }
    }
    if (random_below(20) == 0)
        bytes = 16 + random_below((uint32_t)bytes - 16);
    if (random_below(20))
        put_right(data, bytes);
    return bytes;
}

int put_right(uint8_t *data, size_t bytes) {
    uint8_t header[24];
    uint64_t total = bytes;
    if (bytes < sizeof header)
        return 0;
    memcpy(header, data, sizeof header);
    memcpy(data + 16, &total, 8);
    uint32_t crc = blob_crc32(data + 16, bytes - 16);
    memcpy(data + 12, &crc, 4);
    return memcmp(header, data, sizeof header) != 0;
}

/* Rough count of inner steps of an inference; floating, since a hostile shape may have any number. */
static double cost(const struct network *network) {
    double total = 0;
    for (int32_t i = 0; i < network->blob.operation_count; i++) {
        const struct operation *operation = &network->blob.operations[i];
        const struct tensor *out = &network->blob.tensors[operation->output];
        double steps = (double)out->elements;
        if (network->plans[i])
            steps = (double)network->plans[i]->products;
        if (operation->opcode == MAX_POOL || operation->opcode == AVERAGE_POOL) {
            double tall = 1, wide = 1;
            for (int32_t y = 0; y < out->height; y++)
                tall += operation->pool.rows[y].end - operation->pool.rows[y].start;
            for (int32_t x = 0; x < out->width; x++)
                wide += operation->pool.columns[x].end - operation->pool.columns[x].start;
            steps = tall * wide * out->channels;
        }
        total += steps;
    }
    return total;
}

enum outcome try_blob(const uint8_t *data, size_t bytes, int value) {
    uint8_t *exact = malloc(bytes ? bytes : 1); /* so that reading beyond the end is seen */
    struct network *network;
    if (!exact)
        return REFUSED;
    memcpy(exact, data, bytes);
    if (network_open_memory(exact, bytes, NETWORK_DEFAULT_MEMORY, &network, NULL))
        return REFUSED;
    enum outcome outcome = OPENED;
    if (cost(network) < MOST_STEPS) {
        size_t shape[3];
        uint8_t *image = network_input(network, shape);
        memset(image, value, shape[0] * shape[1] * shape[2]);
        network_run(network);
        outcome = RAN;
    }
    network_close(network);
    return outcome;
}
