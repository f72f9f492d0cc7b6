/* What a kind of operation is: how the loader checks it, and what it does to stored tensors (see blob.h for the stored form). Each
 * lies in a file of its own and is one entry of the table in operations.c. Convolutions are planned and run by kernels (plan.h). */
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include "blob.h"

/* An operation with its tensors found. */
struct step {
    const struct blob *blob;
    const struct operation *operation;
    const struct tensor *in, *second, *out; /* ``in`` NULL: a list of its own; ``second`` NULL: there is none */
    const int8_t *from, *other;             /* where these lie */
    int8_t *to;
    uint8_t *arena;
    const uint8_t *image;
};

struct operation_kind {
    const char *name; /* as ``info`` prints it */
    int inputs;       /* how many tensors it reads; 0: a list of its own, which ``check`` looks at */
    int in_place;     /* element by element: it may write where it reads */
    int image;        /* it reads the image where that is its input; the others need a copy in the arena */
    /* Reads ``word`` (../FORMAT.md) into the operation: 0 and a reason where it is not allowed. */
    int (*check)(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written);
    /* In plain C, which is what it means: slow, without undefined behaviour for any blob that the loader accepts. */
    void (*portable)(const struct step *step);
#if defined(__ARM_NEON)
    /* The same bits by vectors; 0 where there is no such form for these shapes. NULL: there is none. */
    int (*vector)(const struct step *step);
    /* Rows ``row`` up to ``row_end`` of it, for threads; 0 where it is not done row by row (also for no rows). NULL: never. */
    int (*rows)(const struct step *step, int32_t row, int32_t row_end);
#endif
    /* Where the output is floats: instead of all of these. NULL: nothing instead. */
    void (*floats)(const struct step *step, int portable);
};

/* NULL: there is no such operation. */
const struct operation_kind *operation_kind(int32_t opcode);

struct step find_step(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image);

#endif
