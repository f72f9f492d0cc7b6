/* Float convolution in plain C. A sum starts with the bias and takes its products one after the other (kernel rows, columns, input
 * channels), each with one rounding, those of the padding (zeros) too; then come the limits. The vector kernels keep that order for
 * every output, so they agree with this bit for bit. */
#include <math.h>

#include "floats.h"

/* Weight k = 0 of an output channel, and how far apart its weights are. */
static const float *weights_of(const struct plan *plan, int32_t channel, int64_t *step) {
    const float *weights = (const float *)(const void *)plan->convolution->packed;
    if (is_float_depthwise(plan)) {
        *step = 4;
        return weights + (int64_t)channel / 4 * 4 * plan->k + channel % 4;
    }
    int32_t inner = channel % plan->outs, first = inner / FLOAT_WIDE * FLOAT_WIDE;
    *step = plan->outs - first > FLOAT_NARROW ? FLOAT_WIDE : FLOAT_NARROW;
    return weights + panel_offset(plan, channel / plan->outs, first) + inner % FLOAT_WIDE;
}

static float sum(const struct plan *plan, const float *in, int32_t y, int32_t x, int32_t channel, const float *weights, int64_t step) {
    const struct convolution *c = plan->convolution;
    const struct tensor *t = plan->in;
    float total = c->finish.shift[channel];
    int32_t first = channel / plan->outs * plan->depth;
    for (int32_t i = 0; i < c->kernel_height; i++)
        for (int32_t j = 0; j < c->kernel_width; j++) {
            int64_t row = (int64_t)y * c->stride_height + (int64_t)i * c->dilation_height - c->top;
            int64_t column = (int64_t)x * c->stride_width + (int64_t)j * c->dilation_width - c->left;
            int inside = row >= 0 && row < t->height && column >= 0 && column < t->width;
            const float *pixel = in + (inside ? (row * t->width + column) * t->channels + first : 0);
            for (int32_t d = 0; d < plan->depth; d++, weights += step)
                total = fmaf(*weights, inside ? pixel[d] : 0.0f, total);
        }
    return total;
}

static void run(const struct plan *plan, const struct part *part, const void *in, void *out, uint8_t *scratch) {
    const struct convolution *c = plan->convolution;
    const struct tensor *t = plan->out;
    float *to = out;
    (void)part, (void)scratch;
    for (int32_t o = 0; o < t->channels; o++) {
        int64_t step;
        const float *weights = weights_of(plan, o, &step);
        for (int32_t y = 0; y < t->height; y++)
            for (int32_t x = 0; x < t->width; x++)
                to[((int64_t)y * t->width + x) * t->channels + o] = limited(sum(plan, in, y, x, o, weights, step), c->low, c->high);
    }
}

static int fits(const struct plan *plan) { return plan->in->floating; }

const struct kernel portable_float_kernel = {.name = "portable", .plain = 1, .fits = fits, .run = run};
