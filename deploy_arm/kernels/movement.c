/* Bytes or floats in other places: slices, padding, another shape. */
#include "blob_checks.h"
#include "operations.h"

#include <string.h>

#if defined(__ARM_NEON)
#include "neon.h"
#endif

static int check_slice(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    const int32_t from[3] = {in->height, in->width, in->channels}, to[3] = {out->height, out->width, out->channels};
    memcpy(&operation->slice, word + 4, sizeof operation->slice);
    REQUIRE(same_range(in, out), "a slice changes the range");
    for (int axis = 0; axis < 3; axis++)
        REQUIRE(word[4 + axis] >= 0 && word[7 + axis] >= 1 &&
                    word[4 + axis] + (int64_t)(to[axis] - 1) * word[7 + axis] < from[axis],
                "a slice leaves its input");
    return 1;
}

static void portable_slice(const struct step *step) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const int8_t *from = step->from;
    int8_t *to = step->to;
    const int32_t *start = operation->slice.starts, *steps = operation->slice.steps;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++) {
            int64_t row = start[0] + (int64_t)y * steps[0], column = start[1] + (int64_t)x * steps[1];
            const int8_t *pixel = from + (row * in->width + column) * in->channels + start[2];
            for (int32_t c = 0; c < out->channels; c++)
                *to++ = pixel[(int64_t)c * steps[2]];
        }
}

#if defined(__ARM_NEON)
/* ``run`` bytes, at least 16, or (``step`` 2) every second of twice as many. */
static void copy_run(const int8_t *from, int8_t *to, int64_t run, int32_t step) {
    for (int64_t c = 0; c < run; c = next(c, run))
        vst1q_s8(to + c, step == 2 ? vld2q_s8(from + 2 * c).val[0] : vld1q_s8(from + c));
}

/* Slices of neighbouring channels, and of every second one. */
static int vector_slice(const struct step *step) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const int8_t *from = step->from;
    int8_t *to = step->to;
    const int32_t *start = operation->slice.starts, *steps = operation->slice.steps;
    const int64_t run = out->channels;
    if (steps[2] > 2 || (steps[2] == 2 && run < 16))
        return 0;
    for (int64_t y = 0; y < out->height; y++) {
        const int8_t *pixel = from + ((start[0] + y * steps[0]) * in->width + start[1]) * in->channels + start[2];
        for (int32_t x = 0; x < out->width; x++, pixel += (int64_t)steps[1] * in->channels, to += run) {
            if (run < 16)
                memcpy(to, pixel, (size_t)run);
            else if (steps[2] == 1)
                copy_run(pixel, to, run, 1);
            else
                copy_run(pixel, to, run, 2);
        }
    }
    return 1;
}

#endif

static void slice_floats(const struct step *step, int portable) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const float *from = (const float *)(const void *)step->from;
    float *to = (float *)(void *)step->to;
    (void)portable;
    const int32_t *start = operation->slice.starts, *steps = operation->slice.steps;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++, to += out->channels) {
            int64_t row = start[0] + (int64_t)y * steps[0], column = start[1] + (int64_t)x * steps[1];
            const float *pixel = from + (row * in->width + column) * in->channels + start[2];
            if (steps[2] == 1)
                memcpy(to, pixel, (size_t)out->channels * sizeof *to);
            else
                for (int32_t c = 0; c < out->channels; c++)
                    to[c] = pixel[(int64_t)c * steps[2]];
        }
}

const struct operation_kind slice_kind = {
    .name = "slice",
    .inputs = 1,
    .check = check_slice,
    .portable = portable_slice,
#if defined(__ARM_NEON)
    .vector = vector_slice,
#endif
    .floats = slice_floats,
};

static int check_pad(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    const int32_t from[3] = {in->height, in->width, in->channels}, to[3] = {out->height, out->width, out->channels};
    memcpy(&operation->pad, word + 4, sizeof operation->pad);
    REQUIRE(same_range(in, out), "a padding changes the range");
    for (int axis = 0; axis < 3; axis++)
        REQUIRE(word[4 + axis] >= 0 && word[7 + axis] >= 0 &&
                    (int64_t)from[axis] + word[4 + axis] + word[7 + axis] == to[axis],
                "a padding's shapes do not add up");
    return 1;
}

static void portable_pad(const struct step *step) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const int8_t *from = step->from;
    int8_t *to = step->to;
    const int32_t *before = operation->pad.before;
    memset(to, in->zero, out->bytes);
    for (int32_t y = 0; y < in->height; y++)
        for (int32_t x = 0; x < in->width; x++)
            memcpy(to + ((int64_t)(y + before[0]) * out->width + x + before[1]) * out->channels + before[2],
                   from + ((int64_t)y * in->width + x) * in->channels, (size_t)in->channels);
}

static void pad_floats(const struct step *step, int portable) {
    const struct operation *operation = step->operation;
    const struct tensor *in = step->in, *out = step->out;
    const float *from = (const float *)(const void *)step->from;
    float *to = (float *)(void *)step->to;
    (void)portable;
    const int32_t *before = operation->pad.before;
    memset(to, 0, out->bytes);
    for (int32_t y = 0; y < in->height; y++)
        for (int32_t x = 0; x < in->width; x++)
            memcpy(to + ((int64_t)(y + before[0]) * out->width + x + before[1]) * out->channels + before[2],
                   from + ((int64_t)y * in->width + x) * in->channels, (size_t)in->channels * sizeof *to);
}

const struct operation_kind pad_kind = {
    .name = "pad", .inputs = 1, .check = check_pad, .portable = portable_pad, .floats = pad_floats};

static int check_reshape(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    (void)word;
    REQUIRE(in->elements == out->elements, "a reshape changes the size");
    REQUIRE(same_range(in, out), "a reshape changes the range");
    return 1;
}

static void portable_reshape(const struct step *step) {
    if (step->to != step->from)
        memcpy(step->to, step->from, step->in->bytes);
}

const struct operation_kind reshape_kind = {
    .name = "reshape", .inputs = 1, .in_place = 1, .check = check_reshape, .portable = portable_reshape};
