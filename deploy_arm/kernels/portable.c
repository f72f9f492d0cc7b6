/* Every operation in plain C: the meaning of ../graph.py on stored bytes. Slow, without undefined behaviour for any blob that
 * the loader accepts. Sums wrap modulo 2**32; the compiler of a graph proves that true sums fit. */
#include <string.h>

#include "kernels.h"
#include "unpack.h"

static int64_t saturate(int64_t value) { return value > INT32_MAX ? INT32_MAX : value < INT32_MIN ? INT32_MIN : value; }

int8_t portable_requantize(int32_t acc, const struct finish *finish, int32_t channel, int32_t zero) {
    int64_t t = saturate(acc * ((int64_t)1 << finish->left));
    t = (2 * t * finish->multiplier[channel] + ((int64_t)1 << 31)) >> 32;
    t = saturate(t + finish->offset[channel]);
    if (finish->right)
        t = (t + ((int64_t)1 << (finish->right - 1))) >> finish->right;
    t = t < finish->low ? finish->low : t > finish->high ? finish->high : t;
    return (int8_t)(t + zero);
}

void portable_put(void *out, int64_t index, uint32_t acc, const struct finish *finish, int32_t channel, int32_t zero) {
    if (finish->scale) {
        float product = (float)(int32_t)acc * finish->scale[channel]; /* compiled with -ffp-contract=off: two roundings */
        ((float *)out)[index] = product + finish->shift[channel];
    } else {
        ((int8_t *)out)[index] = portable_requantize((int32_t)acc, finish, channel, zero);
    }
}

size_t portable_scratch(const struct plan *plan) {
    if (plan->convolution->depthwise)
        return ((size_t)plan->k * (size_t)plan->out->channels + TILE - 1) / TILE * TILE;
    return ((size_t)plan->k + 3) / 4 * TILE;
}

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
                int64_t place = c->depthwise ? k * plan->out->channels : k / 4 * TILE + k % 4;
                total += (uint32_t)((pixel[d] - t->zero) * weights[place]);
            }
        }
    return total;
}

void portable_convolution(const struct plan *plan, const int8_t *in, void *out, uint8_t *scratch) {
    const struct convolution *c = plan->convolution;
    const struct tensor *t = plan->out;
    int8_t *weights = (int8_t *)scratch;
    if (c->depthwise)
        unpack_tiles(c, 0, portable_scratch(plan) / TILE, weights, TILE);
    for (int32_t o = 0; o < t->channels; o++) {
        int32_t group = o / plan->outs, inner = o % plan->outs;
        const int8_t *own = c->depthwise ? weights + o : weights + inner % 8 * 4;
        if (!c->depthwise && inner % 8 == 0) {
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

int32_t divisor_index(const struct pool *pool, int32_t row, int32_t column) {
    int64_t product = (int64_t)pool->rows[row].divisor * pool->columns[column].divisor;
    int32_t index = 0;
    while (pool->divisors[index] != product)
        index++;
    return index;
}

static void pool(const struct operation *operation, const struct tensor *in, const struct tensor *out, const int8_t *from, void *to) {
    const struct pool *p = &operation->pool;
    int64_t index = 0;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++) {
            int32_t divisor = operation->opcode == AVERAGE_POOL ? divisor_index(p, y, x) : 0;
            for (int32_t c = 0; c < out->channels; c++, index++) {
                uint32_t total = 0;
                int8_t most = INT8_MIN;
                for (int32_t i = p->rows[y].start; i < p->rows[y].end; i += p->row_step)
                    for (int32_t j = p->columns[x].start; j < p->columns[x].end; j += p->column_step) {
                        int8_t value = from[((int64_t)i * in->width + j) * in->channels + c];
                        most = value > most ? value : most;
                        total += (uint32_t)(value - in->zero);
                    }
                if (operation->opcode == MAX_POOL)
                    ((int8_t *)to)[index] = most;
                else
                    portable_put(to, index, total, &p->finish, divisor, out->zero);
            }
        }
}

/* A graph's table on stored bytes: both sides lose or gain the flipped top bit. */
static int8_t look_up(const uint8_t *table, int8_t stored, const struct tensor *in, const struct tensor *out) {
    return (int8_t)(table[(uint8_t)(stored ^ (int8_t)in->zero)] ^ (uint8_t)out->zero);
}

static void concatenate(const struct blob *blob, const struct operation *operation, const struct tensor *out, uint8_t *arena) {
    const struct concatenate *c = &operation->concatenate;
    int8_t *to = (int8_t *)arena + out->offset;
    int64_t pixels = (int64_t)out->height * out->width;
    for (int32_t i = 0; i < c->count; i++) {
        const struct tensor *in = &blob->tensors[c->records[2 * i]];
        const uint8_t *table = blob->data + c->records[2 * i + 1];
        const int8_t *from = (const int8_t *)arena + in->offset;
        for (int64_t p = 0; p < pixels; p++)
            for (int32_t channel = 0; channel < in->channels; channel++)
                to[p * out->channels + channel] = look_up(table, from[p * in->channels + channel], in, out);
        to += in->channels;
    }
}

static void slice(const struct operation *operation, const struct tensor *in, const struct tensor *out, const int8_t *from, int8_t *to) {
    const int32_t *start = operation->slice.starts, *step = operation->slice.steps;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++) {
            int64_t row = start[0] + (int64_t)y * step[0], column = start[1] + (int64_t)x * step[1];
            const int8_t *pixel = from + (row * in->width + column) * in->channels + start[2];
            for (int32_t c = 0; c < out->channels; c++)
                *to++ = pixel[(int64_t)c * step[2]];
        }
}

static void pad(const struct operation *operation, const struct tensor *in, const struct tensor *out, const int8_t *from, int8_t *to) {
    const int32_t *before = operation->pad.before;
    memset(to, in->zero, out->bytes);
    for (int32_t y = 0; y < in->height; y++)
        for (int32_t x = 0; x < in->width; x++)
            memcpy(to + ((int64_t)(y + before[0]) * out->width + x + before[1]) * out->channels + before[2],
                   from + ((int64_t)y * in->width + x) * in->channels, (size_t)in->channels);
}

static void limit(const struct operation *operation, int64_t count, const float *from, float *to) {
    float low = operation->limit.low, high = operation->limit.high;
    for (int64_t i = 0; i < count; i++)
        to[i] = from[i] < low ? low : from[i] > high ? high : from[i];
}

void portable_operation(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image) {
    const struct tensor *out = &blob->tensors[operation->output];
    if (operation->opcode == CONCATENATE) {
        concatenate(blob, operation, out, arena);
        return;
    }
    const struct tensor *in = &blob->tensors[operation->input];
    const int8_t *from = (const int8_t *)arena + in->offset;
    int8_t *to = (int8_t *)arena + out->offset;
    switch (operation->opcode) {
    case INPUT_TABLE: {
        /* Straight from the image when that is what it reads, so that the arena needs no copy of it. */
        const uint8_t *pixels = operation->input == blob->input ? image : (const uint8_t *)from;
        uint8_t flip = operation->input == blob->input ? 0 : 128;
        for (int64_t i = 0; i < in->elements; i++)
            to[i] = (int8_t)(operation->table[i % in->channels * 256 + (pixels[i] ^ flip)] ^ (uint8_t)out->zero);
        break;
    }
    case ADD: {
        const struct tensor *second = &blob->tensors[operation->second];
        portable_add(&operation->add, in, second, out, from, (const int8_t *)arena + second->offset, to);
        break;
    }
    case MULTIPLY: portable_multiply(blob, operation, arena); break;
    case GATHER: portable_gather(operation, in, out, from, to); break;
    case LAYER_NORM: portable_layer_norm(operation, out, from, to); break;
    case LIMIT: limit(operation, in->elements, (const float *)(const void *)from, (float *)(void *)to); break;
    case MAX_POOL:
    case AVERAGE_POOL: pool(operation, in, out, from, to); break;
    case TABLE:
        for (int64_t i = 0; i < in->elements; i++)
            to[i] = look_up(operation->table, from[i], in, out);
        break;
    case FLOAT_TABLE:
        for (int64_t i = 0; i < in->elements; i++)
            ((float *)(void *)to)[i] = operation->float_table[(uint8_t)(from[i] ^ (int8_t)in->zero)];
        break;
    case SLICE: slice(operation, in, out, from, to); break;
    case PAD: pad(operation, in, out, from, to); break;
    case RESHAPE:
        if (to != from)
            memcpy(to, from, in->bytes);
        break;
    case OUTPUT:
        for (int64_t i = 0; i < in->elements; i++)
            ((float *)(void *)to)[i] = (float)(from[i] - in->zero) * in->step;
    }
}
