/* The part of the depthwise kernel that has dot products (depthwise3.c). */
#ifndef DEPTHWISE_H
#define DEPTHWISE_H

#include "plan.h"

#if defined(__ARM_FEATURE_DOTPROD)
/* 3 x 3 depthwise by dot products: whether it can, the packed weights, and a band of at least two rows. */
int depthwise3_fits(const struct plan *plan);
size_t depthwise3_scratch(const struct plan *plan);
void depthwise3_pack(const struct plan *plan, const int8_t *weights, int8_t *packed);
void depthwise3_band(const struct plan *plan, const struct part *part, const int8_t *source, int32_t rows, const int8_t *packed, int8_t *out);
#endif

#endif
