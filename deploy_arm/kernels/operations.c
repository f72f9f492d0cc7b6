/* The operations there are, by the number they have in a file. */
#include "operations.h"

extern const struct operation_kind input_table_kind, convolution_kind, add_kind, concatenate_kind, max_pool_kind, average_pool_kind,
    table_kind, slice_kind, pad_kind, reshape_kind, output_kind, multiply_kind, gather_kind, layer_norm_kind, limit_kind, float_table_kind;
extern const struct operation_kind float_input_kind, float_convolution_kind, float_add_kind, float_multiply_kind, float_concatenate_kind,
    float_average_pool_kind, float_function_kind;

static const struct operation_kind *const kinds[] = {
    [INPUT_TABLE] = &input_table_kind,
    [CONVOLUTION] = &convolution_kind,
    [ADD] = &add_kind,
    [CONCATENATE] = &concatenate_kind,
    [MAX_POOL] = &max_pool_kind,
    [AVERAGE_POOL] = &average_pool_kind,
    [TABLE] = &table_kind,
    [SLICE] = &slice_kind,
    [PAD] = &pad_kind,
    [RESHAPE] = &reshape_kind,
    [OUTPUT] = &output_kind,
    [MULTIPLY] = &multiply_kind,
    [GATHER] = &gather_kind,
    [LAYER_NORM] = &layer_norm_kind,
    [LIMIT] = &limit_kind,
    [FLOAT_TABLE] = &float_table_kind,
    [FLOAT_INPUT] = &float_input_kind,
    [FLOAT_CONVOLUTION] = &float_convolution_kind,
    [FLOAT_ADD] = &float_add_kind,
    [FLOAT_MULTIPLY] = &float_multiply_kind,
    [FLOAT_CONCATENATE] = &float_concatenate_kind,
    [FLOAT_AVERAGE_POOL] = &float_average_pool_kind,
    [FLOAT_FUNCTION] = &float_function_kind,
};

const struct operation_kind *operation_kind(int32_t opcode) {
    return opcode >= 0 && opcode < (int32_t)(sizeof kinds / sizeof *kinds) ? kinds[opcode] : NULL;
}

struct step find_step(const struct blob *blob, const struct operation *operation, uint8_t *arena, const uint8_t *image) {
    const int inputs = kinds[operation->opcode]->inputs;
    struct step step = {.blob = blob, .operation = operation, .arena = arena, .image = image};
    step.out = &blob->tensors[operation->output];
    step.to = (int8_t *)arena + step.out->offset;
    if (inputs) {
        step.in = &blob->tensors[operation->input];
        step.from = (const int8_t *)arena + step.in->offset;
    }
    if (inputs > 1) {
        step.second = &blob->tensors[operation->second];
        step.other = (const int8_t *)arena + step.second->offset;
    }
    return step;
}
