/* The blob (../FORMAT.md) as checked structures. After blob_parse succeeds every pointer, shape, divisor and range below is
 * valid for the kernels: they check nothing again.
 *
 * Inside the program every byte activation is int8: a tensor whose integers reach beyond 127 is stored minus 128 (``zero`` is
 * -128, the byte with its top bit flipped), all others as they are (``zero`` is 0). So real integer = stored - zero, and one
 * signed kernel serves all four ranges. Range checks at load guarantee that stored values always lie in the tensor's range. */
#ifndef BLOB_H
#define BLOB_H

#include <stddef.h>
#include <stdint.h>

enum opcode {
    INPUT_TABLE = 1,
    CONVOLUTION,
    ADD,
    CONCATENATE,
    MAX_POOL,
    AVERAGE_POOL,
    TABLE,
    SLICE,
    PAD,
    RESHAPE,
    OUTPUT,
    MULTIPLY,
    GATHER,
    LAYER_NORM,
    LIMIT,
    FLOAT_TABLE,
    FLOAT_INPUT = 32,
    FLOAT_CONVOLUTION,
    FLOAT_ADD,
    FLOAT_MULTIPLY,
    FLOAT_CONCATENATE,
    FLOAT_AVERAGE_POOL,
    FLOAT_FUNCTION,
};

enum function { LEAKY_RELU = 1, HARDSIGMOID, HARDSWISH, SIGMOID, SILU, TANH, LAST_FUNCTION = TANH };

struct tensor {
    int32_t height, width, channels;
    uint32_t offset; /* in the arena */
    int32_t low, high;
    float step;
    int32_t floating; /* 1: float32 */
    int32_t zero;     /* the stored byte of integer zero: 0 or -128 */
    int64_t elements;
    size_t bytes;
};

static inline size_t element_bytes(const struct tensor *tensor) { return tensor->floating ? sizeof(float) : 1; }

struct window {
    int32_t start, end, divisor;
};

/* int32 accumulator to byte, or to float32 when ``scale`` is set. Arrays per channel (convolution) or per divisor. */
struct finish {
    const int32_t *multiplier, *offset;
    const float *scale, *shift;
    int32_t left, right, low, high;
};

/* A weighted sum of two activations. */
struct addition {
    int32_t multipliers[2], right, low, high;
};

/* What a file may ask to compute a convolution with; the kernels' rows (convolution.c) say which of them have such a number. */
enum kernel_number { KERNEL_AUTOMATIC, KERNEL_DENSE, KERNEL_DEPTHWISE, KERNEL_GROUPED, KERNEL_BLOCKS, LAST_KERNEL = KERNEL_BLOCKS };

struct convolution {
    int32_t kernel_height, kernel_width, stride_height, stride_width;
    int32_t top, left, bottom, right, dilation_height, dilation_width, groups;
    int32_t bits, kernel, depthwise; /* depthwise: weights lie tap-major in one stream */
    int8_t levels[16];
    const uint8_t *packed; /* in the file, or NULL until blob_decode has made it where ``lanes`` says that weights are coded */
    size_t packed_bytes;
    const uint8_t *coded;
    size_t coded_bytes;
    uint8_t *decoded; /* ``packed``, where it was coded or had a middle tap of 8 bits; the blob's */
    int32_t lanes;    /* 0: not coded */
    /* Where whole blocks of weights are zero and left out: one bit a block of QUAD output channels x EIGHT input channels of one tap
     * (those of four channels from a byte on, from its lowest bit up), and how many there are. Else NULL. */
    const uint8_t *kept;
    int64_t kept_blocks;
    const int8_t *middle; /* weights of the middle tap, [output channels][input channels of a group], or NULL; of no use once decoded */
    struct finish finish;
    float low, high; /* limits of a float convolution, whose weights are ``packed``, whose bias is ``finish.shift`` and which has 32 bits */
    struct addition residual; /* right 0: none; the operation's second input is then not read */
    int32_t zero;             /* the stored byte of integer zero before it, else the output's */
};

struct pool {
    const struct window *rows, *columns;
    int32_t row_step, column_step; /* of a maximum: dilation */
    int32_t divisor_count;
    const int32_t *divisors;
    struct finish finish;
};

struct layer_norm {
    int64_t epsilon;
    struct finish finish;
};

struct concatenate {
    int32_t count;
    const int32_t *records; /* count x {tensor, offset of the table}; of floats: the tensors alone */
};

struct operation {
    int32_t opcode, input, second, output;
    union {
        const uint8_t *table;
        const float *float_table;
        struct convolution convolution;
        struct pool pool;
        struct finish multiply;
        struct layer_norm layer_norm;
        const int32_t *indices;
        struct concatenate concatenate;
        struct addition add;
        struct {
            int32_t starts[3], steps[3];
        } slice;
        struct {
            int32_t before[3], after[3];
        } pad;
        struct {
            float low, high;
        } limit;
        struct {
            float low, high, parameter;
            int32_t kind; /* an enum function */
        } function;
    };
};

struct blob {
    const uint8_t *data;
    size_t bytes;
    uint32_t version, arena_bytes;
    int32_t tensor_count, operation_count, input, output;
    struct tensor *tensors;
    struct operation *operations;
    int64_t examined; /* bytes and steps that checking the file took: see blob_checks.h */
    /* Why parsing failed: the operation (or -1) and a static text. */
    int32_t bad_operation;
    const char *reason;
};

/* CRC-32 as zlib computes it. */
uint32_t blob_crc32(const uint8_t *data, size_t bytes);

/* Check everything and fill ``blob``; ``data`` must be aligned to 16 and outlive it. Returns an enum network_status. */
int blob_parse(struct blob *blob, const uint8_t *data, size_t bytes);

/* What blob_decode takes. */
size_t blob_decoded_bytes(const struct operation *operation);

/* Decode the weights of operation ``index`` if they are coded, and bring them to 8 bits if their middle tap has as many. Returns an
 * enum network_status. */
int blob_decode(struct blob *blob, int32_t index);

void blob_free(struct blob *blob);

#endif
