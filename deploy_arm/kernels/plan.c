/* What is worked out once at load for any kernel of a convolution, and what kernels share while they run. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "unpack.h"

/* Rows of the input with their padding at ``to``; ``row`` is the first of them in the padded image. */
static void copy_band(const struct plan *plan, const int8_t *in, int32_t row, int32_t rows, int8_t *to) {
    const struct convolution *c = plan->convolution;
    const struct tensor *t = plan->in;
    size_t pixel = (size_t)t->channels * element_bytes(t);
    size_t left = (size_t)c->left * pixel, middle = (size_t)t->width * pixel, line = (size_t)plan->width * pixel;
    for (int32_t i = 0; i < rows; i++, to += line) {
        int32_t y = row + i - c->top;
        if (y < 0 || y >= t->height) {
            memset(to, t->zero, line);
            continue;
        }
        memset(to, t->zero, left);
        memcpy(to + left, in + (size_t)y * middle, middle);
        memset(to + left + middle, t->zero, line - left - middle);
    }
}

/* scan() where only blocks of weights are there. */
static void scan_blocks(struct plan *plan, uint32_t *sums) {
    const struct convolution *c = plan->convolution;
    const int32_t count = blocks_of(c, plan->in->channels);
    int8_t tile[TILE];
    size_t at = 0;
    plan->zeros = (int64_t)plan->k * plan->outs;
    for (int32_t quad = 0; quad < plan->outs / QUAD; quad++)
        for (int32_t block = 0; block < count; block++) {
            if (!is_kept(c, quad, block, count))
                continue;
            unpack_tiles(c, at++, 1, tile, TILE);
            for (int i = 0; i < TILE; i++) {
                sums[quad * QUAD + i / OCTET] += (uint32_t)tile[i];
                plan->zeros -= tile[i] != 0;
            }
        }
}

/* Sums of the weights per output channel (modulo 2**32), the number of zeros, and which taps have any weights. */
static void scan(struct plan *plan, uint32_t *sums) {
    const struct convolution *c = plan->convolution;
    int8_t tile[64 * TILE];
    size_t outs = (size_t)plan->out->channels;
    if (c->kept) {
        scan_blocks(plan, sums);
        return;
    }
    plan->zeros = 0;
    if (c->depthwise) {
        size_t total = (size_t)plan->k * outs;
        for (size_t first = 0; first < total; first += sizeof tile) {
            size_t count = total - first < sizeof tile ? total - first : sizeof tile;
            unpack_tiles(c, first / TILE, (count + TILE - 1) / TILE, tile, TILE);
            for (size_t i = 0; i < count; i++) {
                sums[(first + i) % outs] += (uint32_t)tile[i];
                plan->zeros += tile[i] == 0;
            }
        }
        return;
    }
    size_t depth = ((size_t)plan->k + 3) / 4;
    const int whole = plan->depth % PAIRED == 0 && c->kernel_height * c->kernel_width <= MOST_TAPS;
    uint64_t taps = 0;
    for (int32_t block = 0; block < plan->blocks * c->groups; block++) {
        int32_t inner = block % plan->blocks * 8, rows = plan->outs - inner < 8 ? plan->outs - inner : 8;
        uint32_t *own = sums + block / plan->blocks * plan->outs + inner;
        for (size_t first = 0; first < depth; first += 64) {
            size_t count = depth - first < 64 ? depth - first : 64;
            unpack_tiles(c, (size_t)block * depth + first, count, tile, TILE);
            int32_t last = (int32_t)(plan->k - (int32_t)first * 4); /* entries of padding are not counted */
            for (size_t i = 0; i < count; i++) {
                int there = 0;
                for (int32_t o = 0; o < rows; o++)
                    for (int32_t j = 0; j < 4 && (int32_t)i * 4 + j < last; j++) {
                        own[o] += (uint32_t)tile[i * TILE + (size_t)o * 4 + (size_t)j];
                        plan->zeros += tile[i * TILE + (size_t)o * 4 + (size_t)j] == 0;
                        there |= tile[i * TILE + (size_t)o * 4 + (size_t)j];
                    }
                if (there && whole)
                    taps |= (uint64_t)1 << ((int32_t)(first + i) * 4 / plan->depth);
            }
        }
    }
    if (whole)
        plan->taps = taps ? taps : 1; /* something is read, whatever it meets */
}

/* Takes the rounding of the last shift and the stored zero into the offsets, where both fit and the shift suits: then what is left
 * is a truncating shift. A sum that saturates is beyond every byte before and after (2**31 >> 22 is 512). */
static void plan_finish(struct plan *plan) {
    const struct finish *finish = &plan->convolution->finish;
    if (plan->out->floating || finish->right < DIRECT_LEAST || finish->right > DIRECT_MOST)
        return;
    int64_t added = ((int64_t)1 << (finish->right - 1)) + plan->convolution->zero * ((int64_t)1 << finish->right);
    for (int32_t o = 0; o < plan->out->channels; o++)
        if (plan->offset[o] + added > INT32_MAX || plan->offset[o] + added < INT32_MIN)
            return;
    for (int32_t o = 0; o < plan->out->channels; o++)
        plan->offset[o] += (int32_t)added;
    plan->direct = 1;
}

int taps_are_merged(const struct plan *plan) {
    const struct convolution *c = plan->convolution;
    return c->kernel_width == 1 || (c->groups == 1 && c->dilation_width == 1);
}

/* Does tap ``j`` of row ``i`` have any weights? */
static int has_weights(const struct plan *plan, int32_t i, int32_t j) {
    const int32_t tap = i * plan->convolution->kernel_width + j;
    return tap >= MOST_TAPS || plan->taps >> tap & 1;
}

int plan_segments(struct plan *plan) {
    const struct convolution *c = plan->convolution;
    const struct pairs *p = &plan->pairs;
    const int together = taps_are_merged(plan) && (!p->line || p->by_output || plan->depth % 8 == 0);
    const int32_t longest = plan->depth * (together ? c->kernel_width : 1), most = SEGMENT_BYTES / (int32_t)element_bytes(plan->in);
    const int32_t unit = p->line ? 8 : 4, doubled = p->line ? 2 : 1;
    const int64_t across = p->line ? 2 * p->bytes : plan->in->channels, down = p->line ? p->line : (int64_t)plan->width * plan->in->channels;
    plan->aligned = longest % unit == 0;
    plan->read = 0;
    plan->segment_count = 0;
    free(plan->segments);
    /* A run of taps that lie side by side has no more pieces than its taps would have alone. */
    plan->segments = malloc((size_t)c->kernel_height * (size_t)c->kernel_width * (size_t)((plan->depth + most - 1) / most) * sizeof *plan->segments);
    if (!plan->segments)
        return 0;
    struct segment *segment = plan->segments;
    for (int32_t i = 0; i < c->kernel_height; i++)
        for (int32_t j = 0, taps; j < c->kernel_width; j += taps) {
            taps = 1;
            if (!has_weights(plan, i, j))
                continue;
            while (together && j + taps < c->kernel_width && has_weights(plan, i, j + taps))
                taps++;
            const int32_t real = plan->depth * taps;
            const int64_t start = i * c->dilation_height * down + (together ? (int64_t)doubled * j * plan->depth : j * c->dilation_width * across);
            for (int32_t first = 0; first < real; first += most, segment++) {
                int32_t length = real - first < most ? real - first : most;
                segment->offset = (int32_t)(start + doubled * first);
                segment->real = length;
                segment->depth = (length + unit - 1) / unit * unit;
                segment->k = (i * c->kernel_width + j) * plan->depth + first;
                plan->read += segment->depth;
                plan->segment_count++;
            }
        }
    return 1;
}

struct bands plan_bands(const struct plan *plan, int64_t more) {
    const struct convolution *c = plan->convolution;
    const struct tensor *in = plan->in, *out = plan->out;
    int64_t line = (int64_t)plan->width * in->channels * (int64_t)element_bytes(in) + more;
    int64_t tall = (int64_t)(c->kernel_height - 1) * c->dilation_height + 1;
    int64_t result = (int64_t)out->width * out->channels * (int64_t)element_bytes(out);
    int64_t rows = (BAND_BYTES - (tall - c->stride_height) * line) / (line * c->stride_height + result);
    rows = rows < 1 ? 1 : rows > out->height ? out->height : rows;
    int64_t bands = (out->height + rows - 1) / rows;
    rows = (out->height + bands - 1) / bands;
    return (struct bands){(int32_t)rows, (int32_t)((rows - 1) * (int64_t)c->stride_height + tall)};
}

size_t decoded_bytes(const struct plan *plan) {
    size_t k = (size_t)plan->k;
    return plan->convolution->depthwise ? (k * (size_t)plan->out->channels + TILE - 1) / TILE * TILE : (k + 3) / 4 * TILE;
}

struct band plan_band(const struct plan *plan, const struct part *part, int32_t row, const void *in, void *copy) {
    const int32_t stride = plan->convolution->stride_height;
    struct band band = {.rows = part->row_end - row < plan->band ? part->row_end - row : plan->band};
    band.lines = plan->band_rows - (plan->band - band.rows) * stride;
    band.source = (const uint8_t *)in + (int64_t)row * stride * plan->width * plan->in->channels * (int64_t)element_bytes(plan->in);
    if (plan->copied) {
        copy_band(plan, in, row * stride, band.lines, copy);
        band.source = copy;
    }
    return band;
}

void plan_places(const struct plan *plan, int32_t *places) {
    const struct convolution *c = plan->convolution;
    const int64_t across = (int64_t)c->stride_width * plan->in->channels, down = (int64_t)c->stride_height * plan->width * plan->in->channels;
    const int32_t width = plan->out->width;
    for (int32_t i = 0; i < plan->band; i++)
        for (int32_t j = 0; j < width; j++)
            places[i * width + j] = (int32_t)(i * down + j * across);
}

int32_t share(int32_t total, int32_t index, int32_t count) { return (int32_t)((int64_t)total * index / count); }

/* What a part of so many rows and blocks of 16 channels costs. Every part decodes the weights of its channels and copies its rows
 * for itself, which counts as so many products. */
static double part_cost(const struct plan *plan, double height, double panels) {
    const struct convolution *c = plan->convolution;
    const double outputs = height * plan->out->width * panels * 16, line = (double)plan->width * plan->in->channels;
    double k = (double)plan->k;
    return outputs * k + panels * 16 * k * 5 + (plan->copied ? height * c->stride_height * line * 3 : 0);
}

/* The grid of rows x blocks of 16 channels whose largest part costs least. */
struct part plan_part(const struct plan *plan, int32_t index, int32_t count) {
    const struct tensor *out = plan->out;
    int32_t rows = out->height, blocks = (out->channels + 15) / 16, best_rows = 1, best_blocks = 1;
    double least = 0;
    for (int32_t across = 1; across <= count && plan->products >= SMALL_CONVOLUTION; across++) {
        int32_t down = count / across < rows ? count / across : rows;
        if (across > blocks || (across > 1 && plan->whole_channels))
            break;
        double cost = part_cost(plan, (rows + down - 1) / down, (blocks + across - 1) / across);
        if (across == 1 || cost < least)
            least = cost, best_rows = down, best_blocks = across;
    }
    struct part part = {0, 0, 0, 0};
    if (index >= best_rows * best_blocks)
        return part;
    int32_t row = index / best_blocks, block = index % best_blocks;
    part.row = share(rows, row, best_rows), part.row_end = share(rows, row + 1, best_rows);
    part.channel = share(blocks, block, best_blocks) * 16, part.channel_end = share(blocks, block + 1, best_blocks) * 16;
    part.channel_end = part.channel_end < out->channels ? part.channel_end : out->channels;
    return part;
}

int plan_start(struct plan *plan, const struct convolution *convolution, const struct tensor *in,
               const struct tensor *residual, const struct tensor *out) {
    memset(plan, 0, sizeof *plan);
    plan->convolution = convolution;
    plan->in = in;
    plan->out = out;
    plan->residual = residual;
    plan->residual_distance = residual ? (int64_t)residual->offset - (int64_t)out->offset : 0;
    plan->depth = in->channels / convolution->groups;
    plan->outs = out->channels / convolution->groups;
    plan->k = plan->depth * convolution->kernel_height * convolution->kernel_width;
    plan->blocks = (plan->outs + 7) / 8;
    plan->products = (int64_t)out->height * out->width * out->channels * plan->k;
    plan->copied = convolution->top || convolution->left || convolution->bottom || convolution->right;
    plan->width = in->width + convolution->left + convolution->right;
    plan->whole_channels = convolution->groups > 1;
    plan->prepared_bytes = sizeof *plan;
    const struct bands bands = plan_bands(plan, 0);
    plan->band = bands.rows, plan->band_rows = bands.lines;

    size_t count = (size_t)out->channels + PADDED_OUTS, bytes = count * sizeof(int32_t);
    plan->compensation = calloc(count, sizeof(int32_t));
    plan->multiplier = calloc(count, sizeof(int32_t));
    plan->offset = calloc(count, sizeof(int32_t));
    if (!plan->compensation || !plan->multiplier || !plan->offset)
        return 0;
    plan->taps = UINT64_MAX;
    if (!in->floating)
        scan(plan, (uint32_t *)plan->compensation);
    if (!plan_segments(plan))
        return 0;
    plan->prepared_bytes += 3 * bytes + (size_t)plan->segment_count * sizeof *plan->segments;
    const struct finish *finish = &convolution->finish;
    bytes -= PADDED_OUTS * sizeof(int32_t);
    memcpy(plan->multiplier, finish->scale ? (const void *)finish->scale : finish->multiplier, bytes);
    memcpy(plan->offset, finish->scale ? (const void *)finish->shift : finish->offset, bytes);
    if (in->floating)
        return 1;
    plan_finish(plan);
    for (int32_t o = 0; o < out->channels; o++) /* stored = real + zero, so real sums are stored sums - zero x weights */
        plan->compensation[o] = (int32_t)(0u - (uint32_t)in->zero * (uint32_t)plan->compensation[o]);
    return 1;
}
