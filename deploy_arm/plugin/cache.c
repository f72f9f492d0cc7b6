/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cache.h"

#include <stdlib.h>
#include <string.h>

static bool level_init(cache_level *level, uint64_t bytes, unsigned ways)
{
    uint64_t line = (uint64_t)1 << CACHE_LINE_SHIFT;
    if (ways == 0 || ways > 64 || bytes == 0 || bytes % (line * ways) != 0) {
        return false;
    }
    uint64_t sets = bytes / (line * ways);
    if ((sets & (sets - 1)) != 0) {
        return false;
    }
    level->tags = calloc(sets * ways, sizeof *level->tags);
    level->mask = sets - 1;
    level->ways = ways;
    level->misses = 0;
    return level->tags != NULL;
}

/* True on a hit. The line ends up most recently used either way. */
static inline bool level_touch(cache_level *level, uint64_t tag)
{
    uint64_t *set = level->tags + ((tag - 1) & level->mask) * level->ways;
    if (set[0] == tag) {
        return true;
    }
    unsigned way = 1;
    while (way < level->ways && set[way] != tag) {
        way++;
    }
    bool hit = way < level->ways;
    memmove(set + 1, set, (hit ? way : level->ways - 1) * sizeof *set);
    set[0] = tag;
    level->misses += !hit;
    return hit;
}

bool cache_init(cache_model *model, uint64_t first_bytes, unsigned first_ways, uint64_t second_bytes,
                unsigned second_ways)
{
    memset(model, 0, sizeof *model);
    if (level_init(&model->first, first_bytes, first_ways) && level_init(&model->second, second_bytes, second_ways)) {
        return true;
    }
    cache_free(model);
    return false;
}

void cache_free(cache_model *model)
{
    free(model->first.tags);
    free(model->second.tags);
    memset(model, 0, sizeof *model);
}

void cache_access(cache_model *model, uint64_t address, unsigned bytes)
{
    uint64_t tag = (address >> CACHE_LINE_SHIFT) + 1;
    uint64_t end = ((address + bytes - 1) >> CACHE_LINE_SHIFT) + 1;
    for (; tag <= end; tag++) {
        model->accesses++;
        if (tag == model->last) {
            continue;
        }
        model->last = tag;
        if (!level_touch(&model->first, tag)) {
            level_touch(&model->second, tag);
        }
    }
}
