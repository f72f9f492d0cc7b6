/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The same counting as counter.c for unicorn: callbacks in C, since one Python call per executed block is ten times slower. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "cache.h"

#define SLOTS 65536 /* open addressing; a program executes some thousand different blocks */

typedef struct {
    uint64_t address, bytes, executions; /* bytes 0: the slot is free */
} slot;

typedef struct {
    cache_model cache;
    uint64_t used, lost; /* lost: executions of blocks that found no slot */
    slot slots[SLOTS];
} hook_counter;

/* NULL when memory is short or the caches are impossible (see cache.h). */
hook_counter *hooks_new(uint64_t first_bytes, unsigned first_ways, uint64_t second_bytes, unsigned second_ways)
{
    hook_counter *counter = calloc(1, sizeof *counter);
    if (counter != NULL && !cache_init(&counter->cache, first_bytes, first_ways, second_bytes, second_ways)) {
        free(counter);
        return NULL;
    }
    return counter;
}

void hooks_free(hook_counter *counter)
{
    cache_free(&counter->cache);
    free(counter);
}

/* unicorn's block callback. */
void hooks_block(void *engine, uint64_t address, uint32_t bytes, void *data)
{
    (void)engine;
    hook_counter *counter = data;
    uint64_t index = (address >> 2) * UINT64_C(0x9E3779B97F4A7C15) >> 48;
    for (unsigned tries = 0; tries < SLOTS; tries++, index = (index + 1) % SLOTS) {
        slot *s = &counter->slots[index];
        if (s->address == address && s->bytes == bytes) {
            s->executions++;
            return;
        }
        if (s->bytes == 0) {
            if (counter->used >= SLOTS / 2) {
                break;
            }
            counter->used++;
            *s = (slot){address, bytes, 1};
            return;
        }
    }
    counter->lost++;
}

/* unicorn's callback before a memory access. */
void hooks_memory(void *engine, int type, uint64_t address, int bytes, int64_t value, void *data)
{
    (void)engine, (void)type, (void)value;
    cache_access(&((hook_counter *)data)->cache, address, (unsigned)bytes);
}

/* Moves what was counted since the last call to `records` (3 words a block: address, bytes, executions) and `totals` (cache
 * lines accessed, misses of both levels, lost). Returns the number of blocks; with records NULL only their number. */
uint64_t hooks_take(hook_counter *counter, uint64_t *records, uint64_t totals[4])
{
    uint64_t count = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        slot *s = &counter->slots[i];
        if (s->executions != 0) {
            if (records != NULL) {
                records[3 * count] = s->address;
                records[3 * count + 1] = s->bytes;
                records[3 * count + 2] = s->executions;
                s->executions = 0;
            }
            count++;
        }
    }
    if (records != NULL) {
        totals[0] = counter->cache.accesses;
        totals[1] = counter->cache.first.misses;
        totals[2] = counter->cache.second.misses;
        totals[3] = counter->lost;
        counter->cache.accesses = counter->cache.first.misses = counter->cache.second.misses = counter->lost = 0;
    }
    return count;
}
