/* How a sum becomes what is stored, in plain C: the fixed-point rule of ../ir/graph.py. */
#ifndef REQUANTIZE_H
#define REQUANTIZE_H

#include "blob.h"

static inline int64_t saturate(int64_t value) { return value > INT32_MAX ? INT32_MAX : value < INT32_MIN ? INT32_MIN : value; }

static inline int8_t portable_requantize(int32_t acc, const struct finish *finish, int32_t channel, int32_t zero) {
    int64_t t = saturate(acc * ((int64_t)1 << finish->left));
    t = (2 * t * finish->multiplier[channel] + ((int64_t)1 << 31)) >> 32;
    t = saturate(t + finish->offset[channel]);
    if (finish->right)
        t = (t + ((int64_t)1 << (finish->right - 1))) >> finish->right;
    t = t < finish->low ? finish->low : t > finish->high ? finish->high : t;
    return (int8_t)(t + zero);
}

/* An accumulator as a stored byte, or as ``finish`` says. */
static inline void portable_put(void *out, int64_t index, uint32_t acc, const struct finish *finish, int32_t channel, int32_t zero) {
    if (finish->scale) {
        float product = (float)(int32_t)acc * finish->scale[channel]; /* compiled with -ffp-contract=off: two roundings */
        ((float *)out)[index] = product + finish->shift[channel];
    } else {
        ((int8_t *)out)[index] = portable_requantize((int32_t)acc, finish, channel, zero);
    }
}

#endif
