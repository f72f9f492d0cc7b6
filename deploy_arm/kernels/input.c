/* Pixels to the first activation, of bytes or of floats, through a table for each channel. */
#include "blob_checks.h"
#include "operations.h"

static int check(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    operation->table = at(blob, word[4], in->channels, 256);
    REQUIRE(operation->table && same_shape(in, out) && !in->floating && !out->floating, "the input's table is out of place");
    REQUIRE(in->low == 0 && in->high == 255, "the input's table reads something else than pixels");
    for (int32_t c = 0; c < in->channels; c++)
        REQUIRE(table_fits(operation->table + 256 * (int64_t)c, in, out), "the input's table leaves the range");
    return 1;
}

/* Straight from the image when that is what it reads, so that the arena needs no copy of it. */
static void portable(const struct step *step) {
    const struct tensor *in = step->in;
    const uint8_t *table = step->operation->table, flipped = (uint8_t)step->out->zero;
    const int from_image = step->operation->input == step->blob->input;
    const uint8_t *pixels = from_image ? step->image : (const uint8_t *)step->from, flip = from_image ? 0 : 128;
    int8_t *to = step->to;
    for (int64_t i = 0; i < in->elements; i++)
        to[i] = (int8_t)(table[i % in->channels * 256 + (pixels[i] ^ flip)] ^ flipped);
}

#if defined(__ARM_NEON)
/* Tables of few channels, straight from the image: three instructions for a byte. */
static int rows(const struct step *step, int32_t row, int32_t row_end) {
    const struct tensor *in = step->in, *out = step->out;
    const struct operation *operation = step->operation;
    const uint8_t *image = step->image;
    int8_t *to = step->to;
    uint8_t table[3 * 256];
    if (operation->input != step->blob->input || (in->channels != 1 && in->channels != 3))
        return 0;
    for (int32_t i = 0; i < in->channels * 256; i++)
        table[i] = operation->table[i] ^ (uint8_t)out->zero;
    const int64_t line = (int64_t)in->width * in->channels, end = row_end * line;
    if (in->channels == 1)
        for (int64_t i = row * line; i < end; i++)
            to[i] = (int8_t)table[image[i]];
    else
        for (int64_t i = row * line; i < end; i += 3) {
            to[i] = (int8_t)table[image[i]];
            to[i + 1] = (int8_t)table[256 + image[i + 1]];
            to[i + 2] = (int8_t)table[512 + image[i + 2]];
        }
    return 1;
}

static int vector(const struct step *step) { return rows(step, 0, step->out->height); }
#endif

const struct operation_kind input_table_kind = {
    .name = "input_table",
    .inputs = 1,
    .image = 1,
    .check = check,
    .portable = portable,
#if defined(__ARM_NEON)
    .vector = vector,
    .rows = rows,
#endif
};

static int check_float(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    operation->float_table = at(blob, word[4], in->channels, 256 * 4);
    REQUIRE(operation->float_table && same_shape(in, out) && out->floating, "the input's table is out of place");
    REQUIRE(operation->input == blob->input, "the input's table reads something else than the image");
    return 1;
}

static void floats(const struct step *step, int portable) {
    const struct tensor *in = step->in;
    const float *table = step->operation->float_table;
    const uint8_t *image = step->image;
    float *to = (float *)(void *)step->to;
    (void)portable;
    int32_t channels = in->channels;
    if (channels == 3) {
        for (int64_t i = 0; i < in->elements; i += 3) {
            to[i] = table[image[i]];
            to[i + 1] = table[256 + image[i + 1]];
            to[i + 2] = table[512 + image[i + 2]];
        }
        return;
    }
    for (int64_t i = 0; i < in->elements; i += channels)
        for (int32_t c = 0; c < channels; c++)
            to[i + c] = table[256 * c + image[i + c]];
}

const struct operation_kind float_input_kind = {.name = "float_input", .inputs = 1, .image = 1, .check = check_float, .floats = floats};
