/* The level-grouped kernel's weights, listed at load: for every output channel and level, where the activations lie that meet it. */
#include <stdlib.h>

#include "grouped.h"
#include "unpack.h"

enum { MOST_PHASES = 4096 };

static struct cycle cycle_of(int32_t taps, int32_t dilation, int32_t stride) {
    int32_t a = stride, b = dilation % stride;
    while (b) { /* the greatest common divisor */
        int32_t rest = a % b;
        a = b, b = rest;
    }
    return (struct cycle){stride / a, taps < stride / a ? taps : stride / a};
}

int lay_planes(const struct plan *plan, struct grouped *g) {
    const struct convolution *c = plan->convolution;
    g->row_phases = cycle_of(c->kernel_height, c->dilation_height, c->stride_height);
    g->column_phases = cycle_of(c->kernel_width, c->dilation_width, c->stride_width);
    if ((int64_t)g->row_phases.count * g->column_phases.count > MOST_PHASES)
        return 0;
    g->phases = g->row_phases.count * g->column_phases.count;
    g->rows = plan->band + (c->kernel_height - 1) * c->dilation_height / c->stride_height;
    g->width = plan->out->width + (c->kernel_width - 1) * c->dilation_width / c->stride_width;
    g->vectors = (int32_t)(((int64_t)(plan->band - 1) * g->width + plan->out->width + 15) / 16);
    g->plane = ((size_t)g->rows * (size_t)g->width + 16 + 15) / 16 * 16; /* a row's last vector may end beyond it */
    if (g->plane % 512 == 0)
        g->plane += 64; /* or the planes would fall on few sets of the cache */
    const struct tensor *in = plan->in;
    g->narrow = (in->low >= -64 && in->high <= 63) || (in->low >= 0 && in->high <= 127);
    g->shift = g->narrow && in->high > 63 ? 64 : 0;
    return (uint64_t)g->plane * (uint64_t)in->channels * (uint64_t)g->phases <= UINT32_MAX;
}

/* By level, the run that is being filled. */
struct open_run {
    int32_t run, count; /* run: its index, or -1 */
    uint32_t from;      /* where distances begin */
    uint32_t step;      /* index of the next */
};

/* Runs and steps of one output channel, whose weights lie at ``weights``. Two passes: the first, without ``runs``, counts the runs of
 * each level and their weights; both go through the weights in the order of addresses, so that distances are not negative. */
static void list_channel(const struct plan *plan, const struct grouped *g, const int8_t *weights, const uint32_t *first_place, int32_t *run_count,
                         uint32_t *step_count, struct run *runs, uint16_t *steps) {
    const struct convolution *c = plan->convolution;
    const int32_t most = g->narrow ? RUN_7 : RUN_8, columns = g->column_phases.count;
    struct open_run open[256];
    int32_t used[256] = {0}, run_total[256] = {0};
    for (int pass = 0; pass < (runs ? 2 : 1); pass++) {
        int32_t next_run = *run_count;
        uint32_t next_step = *step_count;
        for (int32_t level = 0; level < 256; level++) {
            open[level] = (struct open_run){pass ? next_run - 1 : -1, most, 0, next_step};
            next_run += run_total[level];
            next_step += (uint32_t)used[level];
        }
        for (int32_t p = 0; p < g->phases; p++)
            for (int32_t d = 0; d < plan->depth; d++)
                for (int32_t i = p / columns; i < c->kernel_height; i += g->row_phases.period)
                    for (int32_t j = p % columns; j < c->kernel_width; j += g->column_phases.period) {
                        int32_t tap = i * c->kernel_width + j, k = tap * plan->depth + d;
                        uint8_t level = (uint8_t)weights[k / 4 * TILE + k % 4];
                        if (!level)
                            continue;
                        uint32_t place = (uint32_t)(((size_t)p * (size_t)plan->in->channels + (size_t)d) * g->plane) + first_place[tap];
                        struct open_run *o = &open[level];
                        int fresh = o->count == most || place - o->from > FARTHEST;
                        if (!pass) {
                            used[level]++;
                            run_total[level] += fresh;
                        } else {
                            if (fresh)
                                runs[++o->run] = (struct run){(int8_t)level, 0, place};
                            runs[o->run].count++;
                            steps[o->step++] = (uint16_t)(fresh ? 0 : place - o->from);
                        }
                        o->count = fresh ? 1 : o->count + 1;
                        if (fresh || o->count % 2 == 0)
                            o->from = place;
                    }
    }
    for (int32_t level = 0; level < 256; level++) {
        *run_count += run_total[level];
        *step_count += (uint32_t)used[level];
    }
}

/* 0 when memory is short. */
static int list_all(const struct plan *plan, struct grouped *g, int8_t *decoded) {
    const struct convolution *c = plan->convolution;
    int32_t runs = 0;
    uint32_t steps = 0;
    size_t depth = ((size_t)plan->k + 3) / 4;
    uint32_t *first_place = malloc((size_t)c->kernel_height * (size_t)c->kernel_width * sizeof *first_place);
    if (!first_place)
        return 0;
    for (int32_t i = 0; i < c->kernel_height; i++)
        for (int32_t j = 0; j < c->kernel_width; j++)
            first_place[i * c->kernel_width + j] =
                (uint32_t)(i * c->dilation_height / c->stride_height * g->width + j * c->dilation_width / c->stride_width);
    for (int32_t o = 0; o < plan->out->channels; o++) {
        if (o % 8 == 0)
            unpack_tiles(plan->convolution, (size_t)(o / 8) * depth, depth, decoded, TILE);
        g->first_run[o] = runs;
        g->first_step[o] = steps;
        list_channel(plan, g, decoded + o % 8 * 4, first_place, &runs, &steps, g->runs, g->steps);
    }
    g->first_run[plan->out->channels] = runs;
    g->first_step[plan->out->channels] = steps;
    free(first_place);
    return 1;
}

struct grouped *grouped_make(struct plan *plan) {
    struct grouped *g = calloc(1, sizeof *g);
    int8_t *decoded = malloc(decoded_bytes(plan));
    const size_t outs = (size_t)plan->out->channels;
    int done = g && decoded && lay_planes(plan, g);
    if (done) {
        g->first_run = malloc((outs + 1) * sizeof *g->first_run);
        g->first_step = malloc((outs + 1) * sizeof *g->first_step);
        g->start = malloc(outs * sizeof *g->start);
        done = g->first_run && g->first_step && g->start && list_all(plan, g, decoded); /* counts */
    }
    if (done) {
        size_t runs = (size_t)g->first_run[outs], steps = g->first_step[outs];
        g->runs = malloc((runs + 1) * sizeof *g->runs);
        g->steps = malloc((steps + 1) * sizeof *g->steps);
        done = g->runs && g->steps && list_all(plan, g, decoded);
        plan->prepared_bytes += runs * sizeof *g->runs + steps * sizeof *g->steps + outs * 12;
    }
    for (size_t o = 0; done && o < outs; o++) {
        uint32_t sum = 0;
        for (int32_t r = g->first_run[o]; r < g->first_run[o + 1]; r++)
            sum += (uint32_t)(g->runs[r].level * g->runs[r].count);
        g->start[o] = (int32_t)((uint32_t)plan->compensation[o] + (uint32_t)g->shift * sum);
    }
    free(decoded);
    if (done)
        return g;
    grouped_free(g);
    return NULL;
}

void grouped_free(void *own) {
    struct grouped *g = own;
    if (!g)
        return;
    free(g->runs);
    free(g->steps);
    free(g->first_run);
    free(g->first_step);
    free(g->start);
    free(g);
}
