/* What the float kernels share. */
#ifndef FLOATS_H
#define FLOATS_H

#include "plan.h"

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* Within low..high, which are in order and not minus zero: what FMAX and FMIN give, so what is no number stays so. */
static inline float limited(float x, float low, float high) {
    x = x <= low ? low : x;
    return x > high ? high : x;
}

/* One output per input channel: weights lie in blocks of 4 channels. */
static inline int is_float_depthwise(const struct plan *plan) {
    return plan->in->floating && plan->convolution->depthwise && plan->outs == 1;
}

/* Where the panel of weights begins whose first channel in ``group`` is ``first``, in floats. */
static inline int64_t panel_offset(const struct plan *plan, int32_t group, int32_t first) {
    return ((int64_t)group * ((plan->outs + 7) / 8 * 8) + first) * plan->k;
}

/* Bytes of the copy of a band, 0 where there is none. */
static inline size_t float_band_bytes(const struct plan *plan) {
    return plan->copied ? (size_t)plan->band_rows * (size_t)plan->width * (size_t)plan->in->channels * sizeof(float) : 0;
}

#if defined(__ARM_NEON)
static inline __attribute__((always_inline)) float32x4_t limit_vector(float32x4_t x, float32x4_t low, float32x4_t high) {
    return vminq_f32(vmaxq_f32(x, low), high);
}
#endif

#endif
