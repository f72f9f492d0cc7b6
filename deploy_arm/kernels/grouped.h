/* What the level-grouped kernel prepares at load (grouped_lists.c) and reads while it runs (grouped.c). */
#ifndef GROUPED_H
#define GROUPED_H

#include "plan.h"

/* ``count`` weights of one level. The first lies ``first`` bytes from the outputs' first activation. Weights are taken in pairs, a
 * single one at the end; both of a pair have their distance from the last of the pair before (of the first pair: from the first
 * weight), so that an address waits for one addition per pair. A level has several runs where a sum would not fit or a distance not. */
struct run {
    int32_t level, count;
    uint32_t first;
};

/* The phases of a kernel's taps along one axis: that of tap i is i x dilation modulo the stride, so tap ``period`` has that of
 * tap 0 again, and the phases are those of the first ``count`` taps. */
struct cycle {
    int32_t period, count;
};

struct grouped {
    struct run *runs;   /* of all output channels, one after the other */
    uint16_t *steps;    /* of all runs: distances between places */
    int32_t *first_run; /* by output channel, and the end */
    uint32_t *first_step;
    int32_t *start; /* by output channel: where the sum begins */
    int narrow;     /* activations fit 7 bits */
    int32_t shift;  /* taken from stored activations */
    struct cycle row_phases, column_phases;
    int32_t phases;      /* of rows x of columns, the columns' faster */
    int32_t rows, width; /* of a plane */
    int32_t vectors;     /* of outputs in a full band */
    size_t plane;        /* bytes from channel to channel */
};

/* The geometry of the planes alone; 0 where there are too many phases, or their places do not fit 32 bits. */
int lay_planes(const struct plan *plan, struct grouped *g);

/* The runs and steps of all weights behind a geometry; NULL when memory is short. */
struct grouped *grouped_make(struct plan *plan);
void grouped_free(void *own);

#endif
