#include "blob_checks.h"

#include <string.h>

int table_fits(const uint8_t *table, const struct tensor *in, const struct tensor *out) {
    for (int32_t value = in->low; value <= in->high; value++) {
        uint8_t byte = table[(uint8_t)value];
        if (!within(out->low < 0 ? (int8_t)byte : byte, out->low, out->high))
            return 0;
    }
    return 1;
}

int same_range(const struct tensor *in, const struct tensor *out) {
    if (in->floating || out->floating)
        return in->floating && out->floating;
    return in->zero == out->zero && in->low >= out->low && in->high <= out->high;
}

int check_requantize(struct blob *blob, struct finish *finish, const struct tensor *out, int64_t count, const int32_t *numbers) {
    finish->left = numbers[0];
    finish->right = numbers[1];
    finish->low = numbers[2];
    finish->high = numbers[3];
    REQUIRE(within(finish->left, 0, 31) && within(finish->right, 0, 31), "a shift is not in 0..31");
    REQUIRE(finish->low <= finish->high && finish->low >= out->low && finish->high <= out->high,
            "the finish's range leaves the output tensor's");
    for (int64_t i = 0; i < count; i++)
        REQUIRE(finish->multiplier[i] != INT32_MIN, "a multiplier is -2**31");
    return 1;
}

int check_finish(struct blob *blob, struct finish *finish, const struct tensor *out, int32_t kind, int32_t first, int32_t second,
                 int64_t count, const int32_t *numbers) {
    const void *a = at(blob, first, count, 4), *b = at(blob, second, count, 4);
    REQUIRE(within(kind, 0, 1) && kind == out->floating, "the kind of finish does not fit the output tensor");
    REQUIRE(a && b, "the finish's arrays lie outside the file");
    if (kind) {
        finish->scale = a;
        finish->shift = b;
        return 1;
    }
    finish->multiplier = a;
    finish->offset = b;
    return check_requantize(blob, finish, out, count, numbers);
}

int check_addition(struct blob *blob, struct addition *addition, const struct tensor *in, const struct tensor *second,
                   const struct tensor *out, const int32_t *numbers) {
    REQUIRE(!in->floating && !second->floating && !out->floating, "an addition of floats");
    REQUIRE(same_shape(second, out), "an addition's shapes differ");
    memcpy(addition, numbers, sizeof *addition);
    REQUIRE(within(numbers[0], 0, 1 << 20) && within(numbers[1], 0, 1 << 20) && within(numbers[2], 1, 30),
            "an addition's multipliers are out of range");
    REQUIRE(numbers[3] <= numbers[4] && numbers[3] >= out->low && numbers[4] <= out->high, "an addition's range leaves the tensor's");
    return 1;
}

static int windows_lie_within(struct blob *blob, const struct window *windows, int32_t count, int32_t limit) {
    REQUIRE(windows, "a pooling's windows lie outside the file");
    for (int32_t i = 0; i < count; i++)
        REQUIRE(windows[i].start >= 0 && windows[i].start < windows[i].end && windows[i].end <= limit,
                "a pooling's window lies outside its input");
    return 1;
}

int check_windows(struct blob *blob, struct operation *operation, const int32_t *word) {
    struct pool *pool = &operation->pool;
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    REQUIRE(in->channels == out->channels, "a pooling changes the channels");
    pool->rows = at(blob, word[4], out->height, sizeof(struct window));
    pool->columns = at(blob, word[5], out->width, sizeof(struct window));
    pool->row_step = pool->column_step = 1;
    return windows_lie_within(blob, pool->rows, out->height, in->height) && windows_lie_within(blob, pool->columns, out->width, in->width);
}

int check_limits(struct blob *blob, float *low, float *high, const int32_t *word) {
    memcpy(low, word, 4);
    memcpy(high, word + 1, 4);
    *low += 0.0f;
    *high += 0.0f;
    REQUIRE(*low <= *high, "limits are not in order");
    return 1;
}

int check_list(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written, int32_t size, int floating) {
    struct concatenate *c = &operation->concatenate;
    const struct tensor *out = &blob->tensors[operation->output];
    c->count = word[4];
    REQUIRE(out->floating == floating && within(c->count, 1, out->channels), "a concatenation of no tensors, or of bytes and floats");
    c->records = at(blob, word[5], c->count, 4 * (int64_t)size);
    REQUIRE(c->records, "a concatenation's records lie outside the file");
    int64_t channels = 0;
    for (int32_t i = 0; i < c->count; i++) {
        int32_t index = c->records[size * i];
        REQUIRE(within(index, 0, blob->tensor_count - 1) && written[index], "a concatenation reads a tensor that is not there");
        const struct tensor *in = &blob->tensors[index];
        REQUIRE(in->floating == floating && in->height == out->height && in->width == out->width, "concatenated shapes differ");
        REQUIRE(lie_apart(in, out), "memory overlaps");
        channels += in->channels;
    }
    REQUIRE(channels == out->channels, "a concatenation's channels do not add up");
    return 1;
}
