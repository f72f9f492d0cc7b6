/* Which kernel computes a convolution. */
#include <stdlib.h>

#include "plan.h"

extern const struct kernel depthwise_kernel, block_matrix_kernel, block_kernel, grouped_kernel, matrix_kernel, dense_kernel, float_depthwise_kernel, float_dense_kernel;
extern const struct kernel portable_kernel, portable_float_kernel;

/* The first that fits is taken. A blob may ask for one (enum kernel_number in blob.h): that is a matter of each row's ``fits``. */
static const struct kernel *const kernels[] = {
#if defined(__ARM_NEON)
    &depthwise_kernel,
#if defined(__ARM_FEATURE_DOTPROD)
    &block_matrix_kernel,
#endif
    &block_kernel, /* fits whatever has blocks left out: those below do not know them */
    &grouped_kernel,
#if defined(__ARM_FEATURE_DOTPROD)
    &matrix_kernel,
#endif
    &dense_kernel,
    &float_depthwise_kernel,
    &float_dense_kernel,
#endif
    &portable_kernel, /* these two fit whatever the loader accepts */
    &portable_float_kernel,
};

static const struct kernel *choose(const struct plan *plan, int plain) {
    const struct kernel *const *row = kernels;
    while ((plain && !(*row)->plain) || !(*row)->fits(plan))
        row++;
    return *row;
}

static size_t scratch_of(const struct kernel *kernel, const struct plan *plan) { return kernel->scratch ? kernel->scratch(plan) : 0; }

int plan_convolution(struct plan *plan, const struct convolution *convolution, const struct tensor *in,
                     const struct tensor *residual, const struct tensor *out) {
    if (!plan_start(plan, convolution, in, residual, out))
        return 0;
    plan->plain = choose(plan, 1);
    plan->kernel = choose(plan, 0);
    if (plan->kernel->prepare && !plan->kernel->prepare(plan))
        return 0;
    const size_t own = scratch_of(plan->kernel, plan), plain = scratch_of(plan->plain, plan);
    plan->scratch_bytes = own > plain ? own : plain;
    return 1;
}

void plan_free(struct plan *plan) {
    free(plan->segments);
    free(plan->compensation);
    free(plan->multiplier);
    free(plan->offset);
    if (plan->kernel && plan->kernel->free)
        plan->kernel->free(plan->own);
}
