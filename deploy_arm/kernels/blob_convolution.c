/* The two convolutions in a file; what computes them is a kernel (plan.h). */
#include <string.h>

#include "blob_checks.h"
#include "entropy.h"
#include "operations.h"
#include "tiling.h"

/* Words 4 to 14, which must fit the tensors. */
static int check_geometry(struct blob *blob, struct operation *operation, const int32_t *word) {
    struct convolution *c = &operation->convolution;
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    for (int i = 4; i <= 14; i++) {
        int32_t least = i >= 8 && i <= 11 ? 0 : 1;
        REQUIRE(within(word[i], least, i == 14 ? MAXIMUM_DIMENSION : MAXIMUM_WINDOW), "a convolution's parameter is out of range");
    }
    c->kernel_height = word[4], c->kernel_width = word[5], c->stride_height = word[6], c->stride_width = word[7];
    c->top = word[8], c->left = word[9], c->bottom = word[10], c->right = word[11];
    c->dilation_height = word[12], c->dilation_width = word[13], c->groups = word[14];
    int64_t height = (int64_t)in->height + c->top + c->bottom, width = (int64_t)in->width + c->left + c->right;
    REQUIRE(height * width <= MAXIMUM_ELEMENTS / in->channels, "a convolution's padded input is too large");
    int64_t tall = (int64_t)(c->kernel_height - 1) * c->dilation_height + 1;
    int64_t wide = (int64_t)(c->kernel_width - 1) * c->dilation_width + 1;
    REQUIRE(tall <= height && wide <= width, "a convolution's kernel is larger than its input");
    REQUIRE((height - tall) / c->stride_height + 1 == out->height && (width - wide) / c->stride_width + 1 == out->width,
            "a convolution's output shape does not follow from its input");
    REQUIRE(in->channels % c->groups == 0 && out->channels % c->groups == 0, "groups do not divide the channels");
    c->depthwise = c->groups > 1 && c->groups == in->channels;
    REQUIRE((int64_t)c->kernel_height * c->kernel_width <= MAXIMUM_ELEMENTS / in->channels, "a convolution's kernel is too large");
    return 1;
}

/* Word 31 with another kernel than that of blocks: weights of the middle tap, where they have 8 bits and the others fewer. */
static int check_middle(struct blob *blob, struct convolution *c, const struct tensor *in, const struct tensor *out, const int32_t *word) {
    REQUIRE(blob->version >= 5, "a middle tap of 8 bits in a blob before version 5");
    REQUIRE(c->kernel_height % 2 && c->kernel_width % 2, "the weights of a middle tap, and no middle");
    REQUIRE(c->bits != 8, "a middle tap of 8 bits among others of as many");
    c->middle = at(blob, word[31], (int64_t)out->channels * (in->channels / c->groups), 1);
    REQUIRE(c->middle, "the weights of a middle tap lie outside the file");
    return 1;
}

/* Words 27 and 31: which blocks of weights there are, where not all are there. */
static int check_blocks(struct blob *blob, struct convolution *c, const struct tensor *in, const struct tensor *out, const int32_t *word) {
    REQUIRE(word[27] != KERNEL_BLOCKS || word[31], "the kernel of blocks of weights without blocks");
    if (!word[31])
        return 1;
    if (word[27] != KERNEL_BLOCKS)
        return check_middle(blob, c, in, out, word);
    REQUIRE(blob->version >= 4, "blocks of weights in a blob before version 4");
    REQUIRE(c->groups == 1 && in->channels % OCTET == 0 && out->channels % QUAD == 0, "channels are no whole blocks");
    const int64_t count = (int64_t)c->kernel_height * c->kernel_width * (in->channels / OCTET), bytes = (count + 7) / 8, quads = out->channels / QUAD;
    c->kept = at(blob, word[31], quads * bytes, 1);
    REQUIRE(c->kept, "the blocks' bits lie outside the file");
    for (int64_t i = 0; i < quads * bytes; i++) {
        for (int bit = 0; bit < 8; bit++)
            c->kept_blocks += c->kept[i] >> bit & 1;
        REQUIRE(i % bytes + 1 < bytes || count % 8 == 0 || c->kept[i] >> (count % 8) == 0, "bits of blocks that do not exist");
    }
    return 1;
}

/* Words 18, 19 and 30: the packed weights of so many tiles, or what they are decoded from. */
static int check_weights(struct blob *blob, struct convolution *c, int64_t tiles, const int32_t *word) {
    c->packed_bytes = (size_t)tiles * 4 * (size_t)c->bits;
    c->lanes = word[30];
    if (!c->lanes) {
        REQUIRE(word[19] >= 0 && (size_t)word[19] == c->packed_bytes, "the packed weights have another size than the shape says");
        c->packed = at(blob, word[18], (int64_t)c->packed_bytes, 1);
        REQUIRE(c->packed, "the packed weights lie outside the file");
        return 1;
    }
    REQUIRE(blob->version >= 3 && c->bits != 8, "weights of 8 bits, or of a blob of version 2, are coded");
    c->coded = at(blob, word[18], word[19], 1);
    REQUIRE(c->coded, "the coded weights lie outside the file");
    c->coded_bytes = (size_t)word[19];
    REQUIRE(entropy_fits(c->coded, c->coded_bytes, c->bits, c->lanes, tiles * 32), "the coded weights' lanes, size or frequencies are wrong");
    return examine(blob, tiles * 32 / DECODED_PER_STEP);
}

static int check(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    (void)written;
    struct convolution *c = &operation->convolution;
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    REQUIRE(!in->floating, "a convolution reads a float tensor");
    if (!check_geometry(blob, operation, word))
        return 0;
    c->bits = word[15];
    REQUIRE(c->bits == 2 || c->bits == 3 || c->bits == 4 || c->bits == 8, "bits are not 2, 3, 4 or 8");

    int64_t taps = (int64_t)c->kernel_height * c->kernel_width, tiles;
    if (!check_blocks(blob, c, in, out, word))
        return 0;
    if (c->kept)
        tiles = c->kept_blocks;
    else if (c->depthwise)
        tiles = (taps * out->channels + 31) / 32;
    else
        tiles = c->groups * (((int64_t)out->channels / c->groups + 7) / 8) * ((taps * (in->channels / c->groups) + 3) / 4);
    if (!check_weights(blob, c, tiles, word) || (c->middle && !examine(blob, tiles * TILE / DECODED_PER_STEP)))
        return 0;
    if (c->bits == 8) {
        REQUIRE(word[16] == 0 && word[17] == 0, "an 8-bit convolution has levels");
    } else {
        REQUIRE(within(word[16], 1, 1 << c->bits), "the number of levels does not fit the bits");
        const int8_t *levels = at(blob, word[17], 16, 1);
        REQUIRE(levels, "the levels lie outside the file");
        memcpy(c->levels, levels, (size_t)word[16]);
    }
    c->kernel = word[27];
    REQUIRE(within(c->kernel, KERNEL_AUTOMATIC, LAST_KERNEL), "an unknown kernel is asked for");
    REQUIRE(c->kernel != KERNEL_DEPTHWISE || c->depthwise, "the depthwise kernel is asked for another convolution");
    REQUIRE(c->kernel != KERNEL_GROUPED || c->groups == 1, "the level-grouped kernel is asked for several groups");
    c->zero = out->zero;
    if (!word[29])
        return check_finish(blob, &c->finish, out, word[20], word[21], word[22], out->channels, word + 23);
    const int32_t *numbers = at(blob, word[29], 5, 4);
    REQUIRE(numbers, "an addition lies outside the file");
    /* What the finish gives is no tensor of the file; it must be one that could be. */
    struct tensor bytes = {.low = word[25] < 0 ? -128 : 0, .high = word[25] < 0 ? 127 : 255};
    c->zero = word[26] > 127 ? -128 : 0;
    return check_addition(blob, &c->residual, in, &blob->tensors[operation->second], out, numbers) &&
           check_finish(blob, &c->finish, &bytes, word[20], word[21], word[22], out->channels, word + 23);
}

const struct operation_kind convolution_kind = {.name = "convolution", .inputs = 1, .check = check};

static int check_float(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    (void)written;
    struct convolution *c = &operation->convolution;
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    REQUIRE(in->floating && out->floating, "a float convolution of bytes");
    if (!check_geometry(blob, operation, word))
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
    return check_limits(blob, &c->low, &c->high, word + 18);
}

const struct operation_kind float_convolution_kind = {.name = "float_convolution", .inputs = 1, .check = check_float};
