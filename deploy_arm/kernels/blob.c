/* The loader: trusts nothing in the file. Every test that fails says why in ``reason``. Sizes are int64 and bounded before
 * they are multiplied, so no arithmetic here can overflow. */
#include "blob_checks.h"

#include <stdlib.h>
#include <string.h>

#include "entropy.h"
#include "network.h"
#include "operations.h"
#include "unpack.h"

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

/* What an operation reads must be there, and not lie where it writes: unless that is done element by element. A convolution must
 * not, also not over what is added to its result: its products are written before that is read. */
static int parse_operation(struct blob *blob, struct operation *operation, const int32_t *word, uint8_t *written) {
    operation->opcode = word[0], operation->input = word[1], operation->second = word[2], operation->output = word[3];
    const struct operation_kind *kind = operation_kind(operation->opcode);
    REQUIRE(kind, "an unknown operation");
    REQUIRE(within(operation->output, 0, blob->tensor_count - 1) && !written[operation->output],
            "an output tensor does not exist or is written twice");
    const struct tensor *out = &blob->tensors[operation->output];
    const int inputs = kind->inputs + (operation->opcode == CONVOLUTION && word[29]);
    for (int i = 0; i < inputs; i++) {
        REQUIRE(within(word[1 + i], 0, blob->tensor_count - 1) && written[word[1 + i]], "an input tensor is not there yet");
        const struct tensor *in = &blob->tensors[word[1 + i]];
        int in_place = in->offset == out->offset && in->bytes == out->bytes && kind->in_place;
        REQUIRE(in_place || lie_apart(in, out), "memory overlaps");
    }
    int valid = kind->check(blob, operation, word, written);
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
    if (blob->version < 2 || blob->version > 5) {
        blob->reason = "the format version is not 2, 3, 4 or 5";
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

size_t blob_decoded_bytes(const struct operation *operation) {
    const struct convolution *c = &operation->convolution;
    if (operation->opcode != CONVOLUTION || (!c->lanes && !c->middle))
        return 0;
    return c->middle ? c->packed_bytes / (size_t)c->bits * 8 : c->packed_bytes;
}

/* Packed weights at the end of ``decoded``, or in the file, become weights of 8 bits, among them those of the middle tap. */
static void widen(const struct blob *blob, const struct operation *operation, struct convolution *c, size_t bytes) {
    for (size_t i = 0; i < bytes / TILE; i++) {
        int8_t tile[TILE]; /* what is read may lie where it goes */
        unpack_tiles(c, i, 1, tile, TILE);
        memcpy(c->decoded + i * TILE, tile, TILE);
    }
    const int32_t outs = blob->tensors[operation->output].channels, depth = blob->tensors[operation->input].channels / c->groups;
    const int32_t tap = c->kernel_height / 2 * c->kernel_width + c->kernel_width / 2, own = outs / c->groups;
    const size_t blocks = ((size_t)own + 7) / 8, depths = ((size_t)depth * (size_t)(c->kernel_height * c->kernel_width) + 3) / 4;
    for (int32_t o = 0; o < outs; o++)
        for (int32_t d = 0; d < depth; d++) {
            const size_t k = (size_t)tap * (size_t)depth + (size_t)d, block = (size_t)(o / own) * blocks + (size_t)(o % own / 8);
            const size_t place = c->depthwise ? k * (size_t)outs + (size_t)o : (block * depths + k / 4) * TILE + (size_t)(o % own % 8) * 4 + k % 4;
            c->decoded[place] = (uint8_t)c->middle[(int64_t)o * depth + d];
        }
    c->bits = 8, c->packed = c->decoded, c->packed_bytes = bytes;
}

int blob_decode(struct blob *blob, int32_t index) {
    const struct operation *operation = &blob->operations[index];
    struct convolution *c = &blob->operations[index].convolution;
    const size_t bytes = blob_decoded_bytes(operation);
    if (!bytes)
        return NETWORK_OK;
    c->decoded = malloc(bytes);
    if (!c->decoded)
        return NETWORK_MEMORY;
    if (c->lanes) {
        uint8_t *packed = c->decoded + bytes - c->packed_bytes;
        c->packed = packed;
        int status = entropy_decode(c->coded, c->coded_bytes, c->bits, c->lanes, packed, c->packed_bytes / (4 * (size_t)c->bits));
        if (status == NETWORK_DAMAGED) {
            blob->bad_operation = index;
            blob->reason = "the coded weights do not end where they must";
        }
        if (status)
            return status;
    }
    if (c->middle)
        widen(blob, operation, c, bytes);
    return NETWORK_OK;
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
