/* fuzz_blob BLOB COUNT SEED: opens (and runs, where it is cheap) COUNT damaged copies of a blob. The checksum is put right again
 * most of the time, so that damage reaches the checks behind it. Prints how many were refused and how many ran; a
 * sanitizer or a signal ends it otherwise. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

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

/* Damages a blob in place and returns its new length. */
static size_t damage(uint8_t *data, size_t bytes) {
    uint32_t tables;
    memcpy(&tables, data + 28, 4); /* the operations: the tables that hold all offsets end behind them */
    size_t end = 64 + 32 * 40 + 128 * (size_t)tables;
    end = end < bytes ? end : bytes;
    for (uint32_t i = 1 + random_below(3); i; i--) {
        switch (random_below(8)) {
        case 0: data[random_below((uint32_t)bytes)] ^= (uint8_t)(1u << random_below(8)); break;
        case 1: damage_word(data + random_below((uint32_t)bytes / 4) * 4); break;
        case 2: damage_word(data + 24 + random_below(10) * 4); break;
        default: damage_word(data + 64 + random_below((uint32_t)(end - 64) / 4) * 4);
        }
    }
    if (random_below(20) == 0)
        bytes = 16 + random_below((uint32_t)bytes - 16);
    if (random_below(20)) {
        uint64_t total = bytes;
        uint8_t padded[24] = {0};
        memcpy(padded, data, 16);
        memcpy(padded + 16, &total, 8);
        memcpy(data, padded, bytes < 24 ? bytes : 24);
        uint32_t crc = blob_crc32(data + 16, bytes - 16);
        memcpy(data + 12, &crc, 4);
    }
    return bytes;
}

/* Rough count of inner steps of an inference. */
static int64_t cost(const struct network *network) {
    int64_t total = 0;
    for (int32_t i = 0; i < network->blob.operation_count; i++) {
        const struct operation *operation = &network->blob.operations[i];
        const struct tensor *out = &network->blob.tensors[operation->output];
        int64_t steps = out->elements;
        if (network->plans[i])
            steps = network->plans[i]->products;
        if (operation->opcode == MAX_POOL || operation->opcode == AVERAGE_POOL) {
            int64_t tall = 1, wide = 1;
            for (int32_t y = 0; y < out->height; y++)
                tall += operation->pool.rows[y].end - operation->pool.rows[y].start;
            for (int32_t x = 0; x < out->width; x++)
                wide += operation->pool.columns[x].end - operation->pool.columns[x].start;
            steps = tall * wide / out->height * out->channels;
        }
        total += steps;
    }
    return total;
}

int main(int count, char **arguments) {
    uint8_t *blob;
    size_t bytes;
    if (count != 4 || network_read_file(arguments[1], &blob, &bytes) || bytes < 64)
        return 2;
    int64_t refused = 0, ran = 0;
    state = strtoull(arguments[3], NULL, 10);
    for (int64_t i = strtoll(arguments[2], NULL, 10); i; i--) {
        uint8_t *copy = malloc(bytes);
        struct network *network;
        if (!copy)
            return 3;
        memcpy(copy, blob, bytes);
        size_t length = damage(copy, bytes);
        uint8_t *exact = realloc(copy, length); /* so that reading beyond the end is seen */
        if (network_open_memory(exact, length, &network, NULL, NULL)) {
            refused++;
            continue;
        }
        size_t size;
        memset(network_input(network, &size), (int)i, 1);
        if (cost(network) < 3000000) {
            network_run(network);
            ran++;
        }
        network_close(network);
    }
    free(blob);
    printf("%lld refused, %lld ran\n", (long long)refused, (long long)ran);
    return 0;
}
