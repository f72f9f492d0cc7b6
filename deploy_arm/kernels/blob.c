/* The loader: trusts nothing in the file. Every test that fails says why in ``reason``. Sizes are int64 and bounded before
 * they are multiplied, so no arithmetic here can overflow. */
#include "blob_checks.h"

#include <stdlib.h>
#include <string.h>

#include "entropy.h"
#include "network.h"

#if defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

uint32_t blob_crc32(const uint8_t *data, size_t bytes) {
    uint32_t crc = 0xffffffffu;
#if defined(__ARM_FEATURE_CRC32)
    for (; bytes >= 8; data += 8, bytes -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        crc = __crc32d(crc, word);
    }
    for (; bytes; data++, bytes--)
        crc = __crc32b(crc, *data);
#else
    uint32_t table[256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? (value >> 1) ^ 0xedb88320u : value >> 1;
        table[i] = value;
    }
    for (; bytes; data++, bytes--)
        crc = (crc >> 8) ^ table[(crc ^ *data) & 255];
#endif
    return ~crc;
}

/* Does a table give values of ``out``'s range for every byte that ``in`` can hold? */
static int table_fits(const uint8_t *table, const struct tensor *in, const struct tensor *out) {
    for (int32_t value = in->low; value <= in->high; value++) {
        uint8_t byte = table[(uint8_t)value];
        if (!within(out->low < 0 ? (int8_t)byte : byte, out->low, out->high))
            return 0;
    }
    return 1;
}

/* Bytes or floats move unchanged from ``in`` to ``out``. */
static int same_range(const struct tensor *in, const struct tensor *out) {
    if (in->floating || out->floating)
        return in->floating && out->floating;
    return in->zero == out->zero && in->low >= out->low && in->high <= out->high;
}

/* ``finish`` with its arrays set: shifts and limits, and that the arrays' values are allowed. */
static int parse_requantize(struct blob *blob, struct finish *finish, const struct tensor *out, int64_t count, const int32_t *numbers) {
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

static int parse_finish(struct blob *blob, struct finish *finish, const struct tensor *out, int32_t kind, int32_t first,
                        int32_t second, int64_t count, const int32_t *numbers) {
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
    return parse_requantize(blob, finish, out, count, numbers);
}

/* ``numbers``: two multipliers, right, low, high. */
static int parse_addition(struct blob *blob, struct addition *addition, const struct tensor *in, const struct tensor *second,
                          const struct tensor *out, const int32_t *numbers) {
    REQUIRE(!in->floating && !second->floating && !out->floating, "an addition of floats");
    REQUIRE(second->height == out->height && second->width == out->width && second->channels == out->channels, "an addition's shapes differ");
    memcpy(addition, numbers, sizeof *addition);
    REQUIRE(within(numbers[0], 0, 1 << 20) && within(numbers[1], 0, 1 << 20) && within(numbers[2], 1, 30),
            "an addition's multipliers are out of range");
    REQUIRE(numbers[3] <= numbers[4] && numbers[3] >= out->low && numbers[4] <= out->high, "an addition's range leaves the tensor's");
    return 1;
}

int parse_geometry(struct blob *blob, struct operation *operation, const int32_t *word) {
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

/* Words 18, 19 and 30: the packed weights of so many tiles, or what they are decoded from. */
static int parse_weights(struct blob *blob, struct convolution *c, int64_t tiles, const int32_t *word) {
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

static int parse_convolution(struct blob *blob, struct operation *operation, const int32_t *word) {
    struct convolution *c = &operation->convolution;
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    REQUIRE(!in->floating, "a convolution reads a float tensor");
    if (!parse_geometry(blob, operation, word))
        return 0;
    c->bits = word[15];
    REQUIRE(c->bits == 2 || c->bits == 3 || c->bits == 4 || c->bits == 8, "bits are not 2, 3, 4 or 8");

    int64_t taps = (int64_t)c->kernel_height * c->kernel_width, tiles;
    if (c->depthwise)
        tiles = (taps * out->channels + 31) / 32;
    else
        tiles = c->groups * (((int64_t)out->channels / c->groups + 7) / 8) * ((taps * (in->channels / c->groups) + 3) / 4);
    if (!parse_weights(blob, c, tiles, word))
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
    REQUIRE(within(c->kernel, KERNEL_AUTOMATIC, KERNEL_GROUPED), "an unknown kernel is asked for");
    REQUIRE(c->kernel != KERNEL_DEPTHWISE || c->depthwise, "the depthwise kernel is asked for another convolution");
    REQUIRE(c->kernel != KERNEL_GROUPED || c->groups == 1, "the level-grouped kernel is asked for several groups");
    c->zero = out->zero;
    if (!word[29])
        return parse_finish(blob, &c->finish, out, word[20], word[21], word[22], out->channels, word + 23);
    const int32_t *numbers = at(blob, word[29], 5, 4);
    REQUIRE(numbers, "an addition lies outside the file");
    /* What the finish gives is no tensor of the file; it must be one that could be. */
    struct tensor bytes = {.low = word[25] < 0 ? -128 : 0, .high = word[25] < 0 ? 127 : 255};
    c->zero = word[26] > 127 ? -128 : 0;
    return parse_addition(blob, &c->residual, in, &blob->tensors[operation->second], out, numbers) &&
           parse_finish(blob, &c->finish, &bytes, word[20], word[21], word[22], out->channels, word + 23);
}

static int parse_windows(struct blob *blob, const struct window *windows, int32_t count, int32_t limit) {
    REQUIRE(windows, "a pooling's windows lie outside the file");
    for (int32_t i = 0; i < count; i++)
        REQUIRE(windows[i].start >= 0 && windows[i].start < windows[i].end && windows[i].end <= limit,
                "a pooling's window lies outside its input");
    return 1;
}

int parse_pool_windows(struct blob *blob, struct operation *operation, const int32_t *word) {
    struct pool *pool = &operation->pool;
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    REQUIRE(in->channels == out->channels, "a pooling changes the channels");
    pool->rows = at(blob, word[4], out->height, sizeof(struct window));
    pool->columns = at(blob, word[5], out->width, sizeof(struct window));
    pool->row_step = pool->column_step = 1;
    return parse_windows(blob, pool->rows, out->height, in->height) && parse_windows(blob, pool->columns, out->width, in->width);
}

/* How often the divisor differs from the one before, the first counted too. */
static int64_t changes(const struct window *windows, int32_t count) {
    int64_t total = 1;
    for (int32_t i = 1; i < count; i++)
        total += windows[i].divisor != windows[i - 1].divisor;
    return total;
}

static int parse_pool(struct blob *blob, struct operation *operation, const int32_t *word) {
    struct pool *pool = &operation->pool;
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    if (!parse_pool_windows(blob, operation, word))
        return 0;
    if (operation->opcode == MAX_POOL) {
        REQUIRE(same_range(in, out), "a maximum changes the range");
        REQUIRE(within(word[6], 0, MAXIMUM_WINDOW) && within(word[7], 0, MAXIMUM_WINDOW), "a maximum's dilation is out of range");
        pool->row_step = word[6] + 1, pool->column_step = word[7] + 1;
        return 1;
    }
    REQUIRE(!in->floating, "an average of integers reads a float tensor");
    pool->divisor_count = word[6];
    REQUIRE(within(pool->divisor_count, 1, 4096), "an average has no divisors, or too many");
    pool->divisors = at(blob, word[7], pool->divisor_count, 4);
    REQUIRE(pool->divisors, "an average's divisors lie outside the file");
    /* Where a neighbour has the same divisor there is nothing new to look up. */
    int64_t pairs = changes(pool->rows, out->height) * changes(pool->columns, out->width);
    if (!examine(blob, pairs * pool->divisor_count))
        return 0;
    for (int32_t i = 0; i < out->height; i++) {
        if (i && pool->rows[i].divisor == pool->rows[i - 1].divisor)
            continue;
        for (int32_t j = 0; j < out->width; j++) {
            if (j && pool->columns[j].divisor == pool->columns[j - 1].divisor)
                continue;
            int64_t product = (int64_t)pool->rows[i].divisor * pool->columns[j].divisor;
            int32_t d = 0;
            while (d < pool->divisor_count && pool->divisors[d] != product)
                d++;
            REQUIRE(d < pool->divisor_count, "an average's divisor is missing");
        }
    }
    return parse_finish(blob, &pool->finish, out, word[8], word[9], word[10], pool->divisor_count, word + 11);
}

static int parse_concatenate(struct blob *blob, struct operation *operation, const int32_t *word, const uint8_t *written) {
    struct concatenate *c = &operation->concatenate;
    const struct tensor *out = &blob->tensors[operation->output];
    c->count = word[4];
    REQUIRE(!out->floating && within(c->count, 1, out->channels), "a concatenation of no tensors, or into floats");
    c->records = at(blob, word[5], c->count, 8);
    REQUIRE(c->records, "a concatenation's records lie outside the file");
    int64_t channels = 0;
    for (int32_t i = 0; i < c->count; i++) {
        int32_t index = c->records[2 * i];
        const uint8_t *table = at(blob, c->records[2 * i + 1], 256, 1);
        REQUIRE(within(index, 0, blob->tensor_count - 1) && written[index], "a concatenation reads a tensor that is not there");
        const struct tensor *in = &blob->tensors[index];
        REQUIRE(!in->floating && in->height == out->height && in->width == out->width, "concatenated shapes differ");
        REQUIRE(table && table_fits(table, in, out), "a concatenation's table lies outside the file or leaves the range");
        REQUIRE(in->offset + in->bytes <= out->offset || out->offset + out->bytes <= in->offset, "memory overlaps");
        channels += in->channels;
    }
    REQUIRE(channels == out->channels, "a concatenation's channels do not add up");
    return 1;
}

/* The remaining operations. ``shape`` and the like are checked per axis: rows, columns, channels. */
static int parse_simple(struct blob *blob, struct operation *operation, const int32_t *word) {
    const struct tensor *in = &blob->tensors[operation->input], *out = &blob->tensors[operation->output];
    const int32_t from[3] = {in->height, in->width, in->channels}, to[3] = {out->height, out->width, out->channels};
    int same_shape = from[0] == to[0] && from[1] == to[1] && from[2] == to[2];
    switch (operation->opcode) {
    case INPUT_TABLE:
        operation->table = at(blob, word[4], in->channels, 256);
        REQUIRE(operation->table && same_shape && !in->floating && !out->floating, "the input's table is out of place");
        REQUIRE(in->low == 0 && in->high == 255, "the input's table reads something else than pixels");
        for (int32_t c = 0; c < in->channels; c++)
            REQUIRE(table_fits(operation->table + 256 * (int64_t)c, in, out), "the input's table leaves the range");
        return 1;
    case TABLE:
        operation->table = at(blob, word[4], 256, 1);
        REQUIRE(operation->table && same_shape && !in->floating && !out->floating, "a table is out of place");
        REQUIRE(table_fits(operation->table, in, out), "a table leaves the range");
        return 1;
    case FLOAT_TABLE:
        operation->float_table = at(blob, word[4], 256, 4);
        REQUIRE(operation->float_table && same_shape && !in->floating && out->floating, "a table of floats is out of place");
        return 1;
    case ADD: {
        REQUIRE(same_shape, "an addition's shapes differ");
        return parse_addition(blob, &operation->add, in, &blob->tensors[operation->second], out, word + 4);
    }
    case MULTIPLY: {
        const struct tensor *second = &blob->tensors[operation->second];
        int vector = second->height == 1 && second->width == 1;
        REQUIRE(same_shape && second->channels == from[2] && (vector || (second->height == from[0] && second->width == from[1])),
                "a product's shapes do not fit");
        REQUIRE(!in->floating && !second->floating && !out->floating, "a product of floats");
        operation->multiply.multiplier = word + 4;
        operation->multiply.offset = word + 5;
        return parse_requantize(blob, &operation->multiply, out, 1, word + 6);
    }
    case GATHER:
        operation->indices = at(blob, word[4], to[2], 4);
        REQUIRE(operation->indices && from[0] == to[0] && from[1] == to[1], "a gathering's indices lie outside the file, or its shapes differ");
        REQUIRE(same_range(in, out), "a gathering changes the range");
        for (int32_t c = 0; c < to[2]; c++)
            REQUIRE(within(operation->indices[c], 0, from[2] - 1), "a gathering reads a channel that is not there");
        return 1;
    case LAYER_NORM: {
        struct layer_norm *norm = &operation->layer_norm;
        memcpy(&norm->epsilon, word + 4, 8);
        REQUIRE(same_shape && !in->floating && from[2] <= MAXIMUM_NORM, "a layer norm's shapes differ, or it has too many channels");
        REQUIRE(within(norm->epsilon, 1, (int64_t)1 << 60), "a layer norm's epsilon is out of range");
        return parse_finish(blob, &norm->finish, out, word[6], word[7], word[8], to[2], word + 9);
    }
    case LIMIT:
        memcpy(&operation->limit, word + 4, sizeof operation->limit);
        REQUIRE(same_shape && in->floating && out->floating, "a limit of something else than floats");
        return 1;
    case SLICE:
        memcpy(&operation->slice, word + 4, sizeof operation->slice);
        REQUIRE(same_range(in, out), "a slice changes the range");
        for (int axis = 0; axis < 3; axis++)
            REQUIRE(word[4 + axis] >= 0 && word[7 + axis] >= 1 &&
                        word[4 + axis] + (int64_t)(to[axis] - 1) * word[7 + axis] < from[axis],
                    "a slice leaves its input");
        return 1;
    case PAD:
        memcpy(&operation->pad, word + 4, sizeof operation->pad);
        REQUIRE(same_range(in, out), "a padding changes the range");
        for (int axis = 0; axis < 3; axis++)
            REQUIRE(word[4 + axis] >= 0 && word[7 + axis] >= 0 &&
                        (int64_t)from[axis] + word[4 + axis] + word[7 + axis] == to[axis],
                    "a padding's shapes do not add up");
        return 1;
    case RESHAPE:
        REQUIRE(in->elements == out->elements, "a reshape changes the size");
        REQUIRE(same_range(in, out), "a reshape changes the range");
        return 1;
    case OUTPUT:
        REQUIRE(!in->floating && out->floating && in->elements == out->elements, "the output is out of place");
        return 1;
    default:
        REQUIRE(0, "an unknown operation");
    }
}

/* Element by element, an operation may write where it reads. A convolution must not, also not over what is added to its result:
 * its products are written before that is read. */
static int may_write_in_place(int32_t opcode) {
    switch (opcode) {
    case ADD:
    case MULTIPLY:
    case FLOAT_ADD:
    case FLOAT_MULTIPLY:
    case RESHAPE:
    case TABLE:
    case LIMIT:
    case FLOAT_FUNCTION: return 1;
    default: return 0;
    }
}

static int parse_operation(struct blob *blob, struct operation *operation, const int32_t *word, uint8_t *written) {
    operation->opcode = word[0], operation->input = word[1], operation->second = word[2], operation->output = word[3];
    REQUIRE(within(operation->output, 0, blob->tensor_count - 1) && !written[operation->output],
            "an output tensor does not exist or is written twice");
    const struct tensor *out = &blob->tensors[operation->output];
    int32_t code = operation->opcode;
    int two = code == ADD || code == MULTIPLY || code == FLOAT_ADD || code == FLOAT_MULTIPLY || (code == CONVOLUTION && word[29]);
    int count = two ? 2 : code == CONCATENATE || code == FLOAT_CONCATENATE ? 0 : 1;
    for (int i = 0; i < count; i++) {
        REQUIRE(within(word[1 + i], 0, blob->tensor_count - 1) && written[word[1 + i]], "an input tensor is not there yet");
        const struct tensor *in = &blob->tensors[word[1 + i]];
        int in_place = in->offset == out->offset && in->bytes == out->bytes && may_write_in_place(code);
        REQUIRE(in_place || in->offset + in->bytes <= out->offset || out->offset + out->bytes <= in->offset, "memory overlaps");
    }
    int valid;
    switch (operation->opcode) {
    case CONVOLUTION: valid = parse_convolution(blob, operation, word); break;
    case MAX_POOL:
    case AVERAGE_POOL: valid = parse_pool(blob, operation, word); break;
    case CONCATENATE: valid = parse_concatenate(blob, operation, word, written); break;
    default: valid = code >= FLOAT_INPUT ? parse_float(blob, operation, word, written) : parse_simple(blob, operation, word);
    }
    written[operation->output] = 1;
    return valid;
}

static int parse_tensor(struct blob *blob, struct tensor *tensor, const uint8_t *record) {
    int32_t word[8];
    memcpy(word, record, sizeof word);
    memcpy(&tensor->step, word + 6, 4);
    tensor->height = word[0], tensor->width = word[1], tensor->channels = word[2];
    tensor->offset = (uint32_t)word[3], tensor->low = word[4], tensor->high = word[5], tensor->floating = word[7];
    for (int i = 0; i < 3; i++)
        REQUIRE(within(word[i], 1, MAXIMUM_DIMENSION), "a tensor's shape is out of range");
    REQUIRE((int64_t)word[0] * word[1] <= MAXIMUM_ELEMENTS / word[2], "a tensor is too large");
    REQUIRE(within(tensor->floating, 0, 1), "a tensor is neither bytes nor floats");
    if (!tensor->floating)
        REQUIRE(within(tensor->low, -128, 0) && within(tensor->high, 0, tensor->low < 0 ? 127 : 255), "a tensor's range is not a byte's");
    tensor->zero = !tensor->floating && tensor->high > 127 ? -128 : 0;
    tensor->elements = (int64_t)word[0] * word[1] * word[2];
    tensor->bytes = (size_t)tensor->elements * element_bytes(tensor);
    REQUIRE(tensor->offset % 64 == 0 && (uint64_t)tensor->offset + tensor->bytes <= blob->arena_bytes,
            "a tensor lies outside the arena");
    return 1;
}

static int parse_tables(struct blob *blob, uint32_t tensors, uint32_t operations, uint8_t *written) {
    uint64_t needed = 0;
    for (int32_t i = 0; i < blob->tensor_count; i++) {
        struct tensor *tensor = &blob->tensors[i];
        if (!parse_tensor(blob, tensor, blob->data + tensors + (size_t)i * TENSOR_BYTES))
            return 0;
        uint64_t end = tensor->offset + (uint64_t)tensor->bytes;
        needed = end > needed ? end : needed;
    }
    REQUIRE(blob->arena_bytes <= needed + 63, "the arena is larger than its tensors");
    const struct tensor *input = &blob->tensors[blob->input];
    REQUIRE(!input->floating && input->low == 0 && input->high == 255, "the input is not an image of bytes");
    written[blob->input] = 1;
    for (int32_t i = 0; i < blob->operation_count; i++) {
        blob->bad_operation = i;
        const int32_t *word = (const int32_t *)(const void *)(blob->data + operations + (size_t)i * OPERATION_BYTES);
        if (!parse_operation(blob, &blob->operations[i], word, written) || !examine(blob, 0))
            return 0;
    }
    blob->bad_operation = -1;
    REQUIRE(written[blob->output] && blob->tensors[blob->output].floating, "the output is not written, or not floats");
    return 1;
}

int blob_parse(struct blob *blob, const uint8_t *data, size_t bytes) {
    memset(blob, 0, sizeof *blob);
    blob->data = data;
    blob->bytes = bytes;
    blob->bad_operation = -1;
    uint32_t word[16];
    uint64_t total;
    if (bytes < HEADER_BYTES || memcmp(data, "CNNBLOB1", 8) != 0) {
        blob->reason = "the file does not start as a blob does";
        return NETWORK_NOT_A_BLOB;
    }
    memcpy(word, data, sizeof word);
    memcpy(&total, data + 16, 8);
    blob->version = word[2];
    if (blob->version != 2 && blob->version != 3) {
        blob->reason = "the format version is not 2 or 3";
        return NETWORK_VERSION;
    }
    if (total != bytes || bytes > INT32_MAX || word[3] != blob_crc32(data + 16, bytes - 16)) {
        blob->reason = "the size or the checksum differs";
        return NETWORK_CHECKSUM;
    }
    uint32_t tensors = word[6], operations = word[7];
    blob->arena_bytes = word[10];
    blob->tensor_count = (int32_t)tensors, blob->operation_count = (int32_t)operations;
    blob->input = (int32_t)word[11], blob->output = (int32_t)word[12];
    blob->reason = "the header's tables lie outside the file";
    if (tensors < 1 || operations < 1 || tensors > bytes / TENSOR_BYTES || operations > bytes / OPERATION_BYTES ||
        word[8] > INT32_MAX || word[9] > INT32_MAX || !at(blob, (int32_t)word[8], tensors, TENSOR_BYTES) ||
        !at(blob, (int32_t)word[9], operations, OPERATION_BYTES) || word[11] >= tensors || word[12] >= tensors)
        return NETWORK_DAMAGED;
    blob->tensors = calloc(tensors, sizeof *blob->tensors);
    blob->operations = calloc(operations, sizeof *blob->operations);
    uint8_t *written = calloc(tensors, 1);
    int status = NETWORK_MEMORY;
    if (blob->tensors && blob->operations && written)
        status = parse_tables(blob, word[8], word[9], written) ? NETWORK_OK : NETWORK_DAMAGED;
    free(written);
    if (status)
        blob_free(blob);
    return status;
}

int blob_decode(struct blob *blob, int32_t index) {
    struct convolution *c = &blob->operations[index].convolution;
    if (blob->operations[index].opcode != CONVOLUTION || !c->lanes)
        return NETWORK_OK;
    c->packed = c->decoded = malloc(c->packed_bytes);
    if (!c->packed)
        return NETWORK_MEMORY;
    int status = entropy_decode(c->coded, c->coded_bytes, c->bits, c->lanes, c->decoded, c->packed_bytes / (4 * (size_t)c->bits));
    if (status == NETWORK_DAMAGED) {
        blob->bad_operation = index;
        blob->reason = "the coded weights do not end where they must";
    }
    return status;
}

void blob_free(struct blob *blob) {
    for (int32_t i = 0; blob->operations && i < blob->operation_count; i++)
        if (blob->operations[i].opcode == CONVOLUTION)
            free(blob->operations[i].convolution.decoded);
    free(blob->tensors);
    free(blob->operations);
    blob->tensors = NULL;
    blob->operations = NULL;
}
