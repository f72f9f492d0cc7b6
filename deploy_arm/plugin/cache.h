/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two levels of set-associative cache with least-recently-used replacement. */
#ifndef DEPLOY_ARM_PLUGIN_CACHE_H
#define DEPLOY_ARM_PLUGIN_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#define CACHE_LINE_SHIFT 6 /* 64-byte lines: every core of the targets has them */

typedef struct {
    uint64_t *tags; /* sets x ways, most recently used first; 0 = empty, else line + 1 */
    uint64_t mask;  /* sets - 1 */
    unsigned ways;
    uint64_t misses;
} cache_level;

typedef struct {
    cache_level first, second;
    uint64_t last;     /* line + 1 of the latest access: it is the most recently used, so a repeat changes nothing */
    uint64_t accesses; /* lines touched: an access across a line boundary counts twice */
} cache_model;

/* Empty caches. False when a size is no power-of-two number of sets, or memory is short. */
bool cache_init(cache_model *model, uint64_t first_bytes, unsigned first_ways, uint64_t second_bytes,
                unsigned second_ways);
void cache_free(cache_model *model);
/* One load or store (allocate on both) of `bytes` bytes. Misses of the first level go to the second. */
void cache_access(cache_model *model, uint64_t address, unsigned bytes);

#endif
