/* The float operations: what runtime.c calls, and what their files share. */
#ifndef FLOATS_H
#define FLOATS_H

#include "kernels.h"

/* Within low..high, which are in order and not minus zero: what FMAX and FMIN give, so what is no number stays so. */
static inline float limited(float x, float low, float high) {
    x = x <= low ? low : x;
    return x > high ? high : x;
}

/* Channels of weights that lie side by side: 16, or 8 for the last where no more are left. */
enum { FLOAT_WIDE = 16, FLOAT_NARROW = 8 };

/* Does the operation if its output, and all it reads but an image, are floats; else returns 0. ``portable``: in plain C. */
int float_operation(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image, int portable);

void portable_float_convolution(const struct plan *plan, const float *in, float *out);

/* Chooses the kernel, and says what memory it needs. */
void plan_float(struct plan *plan);

#if defined(__ARM_NEON)
void float_convolution(const struct plan *plan, const struct part *part, const float *in, float *out, uint8_t *scratch);
#endif

#endif
