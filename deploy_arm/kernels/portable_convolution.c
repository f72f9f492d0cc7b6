/* A convolution in plain C: what all other kernels must give, bit by bit. Sums wrap modulo 2**32. */
#include "plan.h"
#include "requantize.h"
#include "unpack.h"

/* Sum of products of one output element; ``weights`` is where weight k = 0 lies. */
static uint32_t sum(const struct plan *plan, const int8_t *in, int32_t y, int32_t x, int32_t channel, const int8_t *weights) {
    const struct convolution *c = plan->convolution;
    const struct tensor *t = plan->in;
    uint32_t total = 0;
    for (int32_t i = 0; i < c->kernel_height; i++)
        for (int32_t j = 0; j < c->kernel_width; j++) {
            int64_t row = (int64_t)y * c->stride_height + (int64_t)i * c->dilation_height - c->top;
            int64_t column = (int64_t)x * c->stride_width + (int64_t)j * c->dilation_width - c->left;
            if (row < 0 || row >= t->height || column < 0 || column >= t->width)
                continue;
            const int8_t *pixel = in + (row * t->width + column) * t->channels + channel;
            int64_t k = ((int64_t)i * c->kernel_width + j) * plan->depth;
            for (int32_t d = 0; d < plan->depth; d++, k++) {
                int64_t place = c->kept ? k : c->depthwise ? k * plan->out->channels : k / 4 * TILE + k % 4;
                total += (uint32_t)((pixel[d] - t->zero) * weights[place]);
            }
        }
    return total;
}

static void run(const struct plan *plan, const struct part *part, const void *in, void *out, uint8_t *scratch) {
    const struct convolution *c = plan->convolution;
    const struct tensor *t = plan->out;
    (void)part;
    int8_t *weights = (int8_t *)scratch;
    if (c->depthwise)
        unpack_tiles(c, 0, decoded_bytes(plan) / TILE, weights, TILE);
    size_t kept = 0;
    for (int32_t o = 0; o < t->channels; o++) {
        int32_t group = o / plan->outs, inner = o % plan->outs;
        const int8_t *own = c->kept ? weights + (size_t)(o % QUAD) * (size_t)plan->k : c->depthwise ? weights + o : weights + inner % 8 * 4;
        if (c->kept && o % QUAD == 0) {
            kept += unpack_quad(c, o / QUAD, blocks_of(c, plan->in->channels), kept, weights);
        } else if (!c->kept && !c->depthwise && inner % 8 == 0) {
            size_t depth = ((size_t)plan->k + 3) / 4;
            unpack_tiles(c, ((size_t)group * (size_t)plan->blocks + (size_t)(inner / 8)) * depth, depth, weights, TILE);
        }
        for (int32_t y = 0; y < t->height; y++)
            for (int32_t x = 0; x < t->width; x++)
                portable_put(out, ((int64_t)y * t->width + x) * t->channels + o, sum(plan, in, y, x, group * plan->depth, own), &c->finish, o,
                    c->zero);
    }
    if (plan->residual)
        portable_add_residual(plan, out);
}

static int fits(const struct plan *plan) { return !plan->in->floating; }

const struct kernel portable_kernel = {.name = "portable", .plain = 1, .fits = fits, .scratch = decoded_bytes, .run = run};
