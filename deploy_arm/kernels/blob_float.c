/* The loader's checks of the float operations (../FORMAT.md, opcodes from 32 on). Numbers may be anything, infinite or not numbers
 * too: no float becomes an index or a size. */
#include <string.h>

#include "blob_checks.h"

/* Two words as limits, which are numbers in order; minus zero becomes zero, as the kernels need. */
static int parse_limits(struct blob *blob, float *low, float *high, const int32_t *word) {
    memcpy(low, word, 4);
    memcpy(high, word + 1, 4);
    *low += 0.0f;
    *high += 0.0f;
    REQUIRE(*low <= *high, "limits are not in order");
    return 1;
}

static int parse_float_convolution(struct blob *blob, struct operation *operation, const int32_t *word) {
    struct convolution *c = &operation->convolution;
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    REQUIRE(in->floating && out->floating, "a float convolution of bytes");
    if (!parse_geometry(blob, operation, word))
        return 0;
    int64_t taps = (int64_t)c->kernel_height * c->kernel_width, outs = out->channels / c->groups, count;
    if (c->depthwise && out->channels == in->channels)
        count = taps * (((int64_t)out->channels + 3) / 4 * 4);
    else
        count = c->groups * ((outs + 7) / 8 * 8) * taps * (in->channels / c->groups);
    c->bits = 32;
    c->packed_bytes = (size_t)count * 4;
    REQUIRE(word[16] >= 0 && (size_t)word[16] == c->packed_bytes, "the weights have another size than the shape says");
    c->packed = at(blob, word[15], count, 4);
    c->finish.scale = c->finish.shift = at(blob, word[17], out->channels, 4);
    REQUIRE(c->packed && c->finish.shift, "weights or bias lie outside the file");
    return parse_limits(blob, &c->low, &c->high, word + 18);
}

static int parse_float_concatenate(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    struct concatenate *c = &operation->concatenate;
    const struct tensor *out = &blob->tensors[operation->output];
    c->count = word[4];
    REQUIRE(out->floating && within(c->count, 1, out->channels), "a concatenation of no tensors, or into bytes");
    c->records = at(blob, word[5], c->count, 4);
    REQUIRE(c->records, "a concatenation's records lie outside the file");
    int64_t channels = 0;
    for (int32_t i = 0; i < c->count; i++) {
        REQUIRE(within(c->records[i], 0, blob->tensor_count - 1) && written[c->records[i]], "a concatenation reads a tensor that is not there");
        const struct tensor *in = &blob->tensors[c->records[i]];
        REQUIRE(in->floating && in->height == out->height && in->width == out->width, "concatenated shapes differ");
        REQUIRE(in->offset + in->bytes <= out->offset || out->offset + out->bytes <= in->offset, "memory overlaps");
        channels += in->channels;
    }
    REQUIRE(channels == out->channels, "a concatenation's channels do not add up");
    return 1;
}

int parse_float(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    if (operation->opcode == FLOAT_CONCATENATE)
        return parse_float_concatenate(blob, operation, word, written);
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    int same_shape = in->height == out->height && in->width == out->width && in->channels == out->channels;
    switch (operation->opcode) {
    case FLOAT_INPUT:
        operation->float_table = at(blob, word[4], in->channels, 256 * 4);
        REQUIRE(operation->float_table && same_shape && out->floating, "the input's table is out of place");
        REQUIRE(operation->input == blob->input, "the input's table reads something else than the image");
        return 1;
    case FLOAT_CONVOLUTION: return parse_float_convolution(blob, operation, word);
    case FLOAT_ADD:
    case FLOAT_MULTIPLY: {
        const struct tensor *second = &blob->tensors[operation->second];
        int vector = operation->opcode == FLOAT_MULTIPLY && second->height == 1 && second->width == 1;
        REQUIRE(same_shape && in->floating && second->floating && out->floating, "a sum or product of bytes, or one that changes the shape");
        REQUIRE(second->channels == in->channels && (vector || (second->height == in->height && second->width == in->width)),
                "the shapes of a sum or product do not fit");
        return parse_limits(blob, &operation->limit.low, &operation->limit.high, word + 4);
    }
    case FLOAT_AVERAGE_POOL:
        REQUIRE(in->floating && out->floating, "an average of floats over bytes");
        if (!parse_pool_windows(blob, operation, word))
            return 0;
        for (int32_t i = 0; i < out->height; i++)
            REQUIRE(operation->pool.rows[i].divisor > 0, "an average's divisor is not positive");
        for (int32_t i = 0; i < out->width; i++)
            REQUIRE(operation->pool.columns[i].divisor > 0, "an average's divisor is not positive");
        return 1;
    case FLOAT_FUNCTION:
        operation->function.kind = word[4];
        memcpy(&operation->function.parameter, word + 5, 4);
        REQUIRE(same_shape && in->floating && out->floating, "a function of bytes, or one that changes the shape");
        REQUIRE(within(word[4], LEAKY_RELU, LAST_FUNCTION), "an unknown function");
        return parse_limits(blob, &operation->function.low, &operation->function.high, word + 6);
    default: REQUIRE(0, "an unknown operation");
    }
}
