/* Channels in another order. */
#include "blob_checks.h"
#include "operations.h"

static int check(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    operation->indices = at(blob, word[4], out->channels, 4);
    REQUIRE(operation->indices && in->height == out->height && in->width == out->width, "a gathering's indices lie outside the file, or its shapes differ");
    REQUIRE(same_range(in, out), "a gathering changes the range");
    for (int32_t c = 0; c < out->channels; c++)
        REQUIRE(within(operation->indices[c], 0, in->channels - 1), "a gathering reads a channel that is not there");
    return 1;
}

static void portable(const struct step *step) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const int8_t *from = step->from;
    int8_t *to = step->to;
    for (int64_t p = (int64_t)out->height * out->width; p; p--, from += in->channels)
        for (int32_t c = 0; c < out->channels; c++)
            *to++ = from[operation->indices[c]];
}

#if defined(__ARM_NEON)
#include "neon.h"

static int vector(const struct step *step) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const int8_t *from = step->from;
    int8_t *to = step->to;
    int32_t half = in->channels / 2;
    if (in->channels % 2 || in->channels != out->channels || half < 16)
        return 0;
    for (int32_t c = 0; c < half; c++)
        if (operation->indices[2 * c] != c || operation->indices[2 * c + 1] != half + c)
            return 0;
    /* Two groups shuffled: their channels alternate. */
    for (int64_t p = (int64_t)out->height * out->width; p; p--, from += in->channels, to += in->channels)
        for (int64_t c = 0; c < half; c = next(c, half)) {
            int8x16x2_t pair = {{vld1q_s8(from + c), vld1q_s8(from + half + c)}};
            vst2q_s8(to + 2 * c, pair);
        }
    return 1;
}

#endif

static void floats(const struct step *step, int portable) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const float *from = (const float *)(const void *)step->from;
    float *to = (float *)(void *)step->to;
    (void)portable;
    for (int64_t done = 0; done < out->elements; done += out->channels, from += in->channels, to += out->channels)
        for (int32_t c = 0; c < out->channels; c++)
            to[c] = from[operation->indices[c]];
}

const struct operation_kind gather_kind = {
    .name = "gather",
    .inputs = 1,
    .check = check,
    .portable = portable,
#if defined(__ARM_NEON)
    .vector = vector,
#endif
    .floats = floats,
};
