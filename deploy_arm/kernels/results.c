/* The network's last operations: integers as floats, and limits of floats. */
#include "blob_checks.h"
#include "operations.h"

#include <string.h>

static int check_output(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    (void)word;
    REQUIRE(!in->floating && out->floating && in->elements == out->elements, "the output is out of place");
    return 1;
}

static void portable_output(const struct step *step) {
    const struct tensor *in = step->in;
    const int8_t *from = step->from;
    float *to = (float *)(void *)step->to;
    for (int64_t i = 0; i < in->elements; i++)
        to[i] = (float)(from[i] - in->zero) * in->step;
}

const struct operation_kind output_kind = {.name = "output", .inputs = 1, .check = check_output, .portable = portable_output};

static int check_limit(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    memcpy(&operation->limit, word + 4, sizeof operation->limit);
    REQUIRE(same_shape(in, out) && in->floating && out->floating, "a limit of something else than floats");
    return 1;
}

static void portable_limit(const struct step *step) {
    const float low = step->operation->limit.low, high = step->operation->limit.high, *from = (const float *)(const void *)step->from;
    float *to = (float *)(void *)step->to;
    for (int64_t i = 0; i < step->in->elements; i++)
        to[i] = from[i] < low ? low : from[i] > high ? high : from[i];
}

const struct operation_kind limit_kind = {.name = "limit", .inputs = 1, .in_place = 1, .check = check_limit, .portable = portable_limit};
