/* Small matrix products (SMMLA): the dense kernel's other row. */
#ifndef MATRIX_H
#define MATRIX_H

#include "plan.h"

#if defined(__ARM_FEATURE_DOTPROD)
struct work; /* dense.h */

#define MATRIX __attribute__((target("+i8mm"))) /* of a function that uses SMMLA */

/* Has the processor SMMLA, and the plan two outputs for it? */
int matrix_pays(const struct plan *plan);

/* For the kernel's row (dense.c). */
int matrix_fits(const struct plan *plan), matrix_prepare(struct plan *plan);

/* ``rows`` of a band of the input, with padding, as records of pairs. */
void matrix_pack(const struct plan *plan, const int8_t *from, int32_t rows, int8_t *to);

/* Where the records of the outputs of a band lie, two by two. */
void matrix_places(const struct plan *plan, int32_t *places);

/* ``pixels`` (at most WIDE_PIXELS or NARROW_PIXELS) x ``width`` sums as the tiles of dense.c. */
void matrix_tile(int32_t width, int32_t pixels, const int8_t *source, const int32_t *places, const struct segment *segments, int32_t count,
                 const int8_t *weights, const int32_t *start, int32_t stride, int32_t *sums);

void matrix_fused(int32_t width, const struct work *w, int32_t pixels, int8_t *out);
#else
static inline int matrix_pays(const struct plan *plan) {
    (void)plan;
    return 0;
}
#endif

#endif
