/* Functions of one activation by its 256 values, and channels of several side by side, each through a table of its own. */
#include "blob_checks.h"
#include "operations.h"

#include <string.h>

#if defined(__ARM_NEON)
#include "neon.h"
#endif

/* A graph's table on stored bytes: both sides lose or gain the flipped top bit. */
static int8_t look_up(const uint8_t *table, int8_t stored, const struct tensor *in, const struct tensor *out) {
    return (int8_t)(table[(uint8_t)(stored ^ (int8_t)in->zero)] ^ (uint8_t)out->zero);
}

#if defined(__ARM_NEON)
/* A table of 256 bytes in registers, for stored bytes on both sides. */
struct table {
    uint8x16x4_t part[4];
};

static struct table load_table(const uint8_t *bytes, const struct tensor *in, const struct tensor *out) {
    struct table t;
    uint8x16_t flip = vdupq_n_u8((uint8_t)out->zero);
    for (int i = 0; i < 4; i++) {
        int from = in->zero ? i ^ 2 : i; /* flipping an index's top bit swaps the halves */
        for (int j = 0; j < 4; j++)
            t.part[i].val[j] = veorq_u8(vld1q_u8(bytes + from * 64 + j * 16), flip);
    }
    return t;
}

static inline uint8x16_t look_up_vector(const struct table *t, uint8x16_t index) {
    const uint8x16_t next = vdupq_n_u8(64);
    uint8x16_t value = vqtbl4q_u8(t->part[0], index); /* an index beyond a part's 64 bytes leaves the value */
    for (int i = 1; i < 4; i++) {
        index = vsubq_u8(index, next);
        value = vqtbx4q_u8(value, t->part[i], index);
    }
    return value;
}

/* ``pixels`` runs of ``run`` bytes, ``in_step`` and ``out_step`` bytes apart. */
static void map_table(const struct table *t, const uint8_t *from, uint8_t *to, int64_t pixels, int64_t run, int64_t in_step, int64_t out_step) {
    for (; pixels; pixels--, from += in_step, to += out_step) {
        if (run < 16) {
            uint8_t some[16] = {0};
            memcpy(some, from, (size_t)run);
            vst1q_u8(some, look_up_vector(t, vld1q_u8(some)));
            memcpy(to, some, (size_t)run);
            continue;
        }
        uint8x16_t last = vld1q_u8(from + run - 16); /* read first: ``to`` may be ``from`` */
        for (int64_t i = 0; i + 16 <= run; i += 16)
            vst1q_u8(to + i, look_up_vector(t, vld1q_u8(from + i)));
        if (run % 16)
            vst1q_u8(to + run - 16, look_up_vector(t, last));
    }
}

#endif

static int check_table(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    operation->table = at(blob, word[4], 256, 1);
    REQUIRE(operation->table && same_shape(in, out) && !in->floating && !out->floating, "a table is out of place");
    REQUIRE(table_fits(operation->table, in, out), "a table leaves the range");
    return 1;
}

static void portable_table(const struct step *step) {
    const struct tensor *in = step->in, *out = step->out;
    for (int64_t i = 0; i < in->elements; i++)
        step->to[i] = look_up(step->operation->table, step->from[i], in, out);
}

#if defined(__ARM_NEON)
static int vector_table(const struct step *step) {
    const struct table table = load_table(step->operation->table, step->in, step->out);
    map_table(&table, (const uint8_t *)step->from, (uint8_t *)step->to, 1, step->in->elements, 0, 0);
    return 1;
}
#endif

const struct operation_kind table_kind = {
    .name = "table",
    .inputs = 1,
    .in_place = 1,
    .check = check_table,
    .portable = portable_table,
#if defined(__ARM_NEON)
    .vector = vector_table,
#endif
};

static int check_float_table(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    (void)written;
    operation->float_table = at(blob, word[4], 256, 4);
    REQUIRE(operation->float_table && same_shape(in, out) && !in->floating && out->floating, "a table of floats is out of place");
    return 1;
}

static void portable_float_table(const struct step *step) {
    const struct tensor *in = step->in;
    const float *table = step->operation->float_table;
    const int8_t *from = step->from;
    float *to = (float *)(void *)step->to;
    for (int64_t i = 0; i < in->elements; i++)
        to[i] = table[(uint8_t)(from[i] ^ (int8_t)in->zero)];
}

const struct operation_kind float_table_kind = {
    .name = "float_table", .inputs = 1, .check = check_float_table, .portable = portable_float_table};

static int check_concatenate(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    if (!check_list(blob, operation, word, written, 2, 0))
        return 0;
    const struct concatenate *c = &operation->concatenate;
    for (int32_t i = 0; i < c->count; i++) {
        const uint8_t *table = at(blob, c->records[2 * i + 1], 256, 1);
        REQUIRE(table && table_fits(table, &blob->tensors[c->records[2 * i]], &blob->tensors[operation->output]),
                "a concatenation's table lies outside the file or leaves the range");
    }
    return 1;
}

static void portable_concatenate(const struct step *step) {
    const struct concatenate *c = &step->operation->concatenate;
    const struct tensor *out = step->out;
    int8_t *to = step->to;
    int64_t pixels = (int64_t)out->height * out->width;
    for (int32_t i = 0; i < c->count; i++) {
        const struct tensor *in = &step->blob->tensors[c->records[2 * i]];
        const uint8_t *table = step->blob->data + c->records[2 * i + 1];
        const int8_t *from = (const int8_t *)step->arena + in->offset;
        for (int64_t p = 0; p < pixels; p++)
            for (int32_t channel = 0; channel < in->channels; channel++)
                to[p * out->channels + channel] = look_up(table, from[p * in->channels + channel], in, out);
        to += in->channels;
    }
}

#if defined(__ARM_NEON)
static int vector_concatenate(const struct step *step) {
    const struct blob *blob = step->blob;
    const struct concatenate *c = &step->operation->concatenate;
    const struct tensor *out = step->out;
    uint8_t *to = (uint8_t *)step->to;
    for (int32_t i = 0; i < c->count; i++) {
        const struct tensor *in = &blob->tensors[c->records[2 * i]];
        const struct table table = load_table(blob->data + c->records[2 * i + 1], in, out);
        map_table(&table, step->arena + in->offset, to, (int64_t)in->height * in->width, in->channels, in->channels, out->channels);
        to += in->channels;
    }
    return 1;
}

#endif

const struct operation_kind concatenate_kind = {
    .name = "concatenate",
    .check = check_concatenate,
    .portable = portable_concatenate,
#if defined(__ARM_NEON)
    .vector = vector_concatenate,
#endif
};

static int check_float_concatenate(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    return check_list(blob, operation, word, written, 1, 1);
}

static void concatenate_floats(const struct step *step, int portable) {
    const struct concatenate *c = &step->operation->concatenate;
    const struct tensor *out = step->out;
    float *to = (float *)(void *)step->to;
    (void)portable;
    int64_t pixels = (int64_t)out->height * out->width;
    for (int32_t i = 0; i < c->count; i++) {
        const struct tensor *in = &step->blob->tensors[c->records[i]];
        const float *from = (const float *)(const void *)(step->arena + in->offset);
        for (int64_t p = 0; p < pixels; p++)
            memcpy(to + p * out->channels, from + p * in->channels, (size_t)in->channels * sizeof *to);
        to += in->channels;
    }
}

const struct operation_kind float_concatenate_kind = {
    .name = "float_concatenate", .check = check_float_concatenate, .floats = concatenate_floats};
