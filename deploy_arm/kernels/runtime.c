/* Opening a network and running its operations in order. */
#include "operations.h"
#include "processor.h"
#include "runtime.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *network_status_text(int status) {
    switch (status) {
    case NETWORK_OK: return "done";
    case NETWORK_CANNOT_READ: return "the file cannot be read";
    case NETWORK_NOT_A_BLOB: return "this is not a network blob";
    case NETWORK_VERSION: return "the blob's format is of another version: compile the network again";
    case NETWORK_CHECKSUM: return "the blob is damaged (size or checksum): copy it again";
    case NETWORK_DAMAGED: return "the blob is not valid";
    case NETWORK_MEMORY: return "not enough memory";
    case NETWORK_THREADS: return "so many threads cannot be started here: ask for fewer, at least 1 and at most 8";
    case NETWORK_TOO_LARGE: return "the network needs more memory than is allowed";
    case NETWORK_PROCESSOR: return "this processor lacks instructions that the network was compiled for";
    default: return "an unknown status";
    }
}

int network_read_file(const char *path, size_t limit, uint8_t **file, size_t *bytes) {
    *file = NULL;
    *bytes = 0;
    int handle = open(path, O_RDONLY);
    if (handle < 0)
        return NETWORK_CANNOT_READ;
    off_t size = lseek(handle, 0, SEEK_END);
    int status = NETWORK_CANNOT_READ;
    if (size >= 0 && (size_t)size > limit) {
        *bytes = (size_t)size;
        status = NETWORK_TOO_LARGE;
    } else if (size >= 0 && lseek(handle, 0, SEEK_SET) == 0) {
        *file = malloc((size_t)size + 1);
        size_t done = 0;
        ssize_t count = *file ? 1 : 0;
        while (count > 0 && done < (size_t)size) {
            count = read(handle, *file + done, (size_t)size - done);
            done += count > 0 ? (size_t)count : 0;
        }
        *bytes = done;
        status = !*file ? NETWORK_MEMORY : done == (size_t)size ? NETWORK_OK : NETWORK_CANNOT_READ;
    }
    close(handle);
    if (status) {
        free(*file);
        *file = NULL;
    }
    return status;
}

/* What it would hold with so many threads. */
static size_t threads_memory(const struct network *network, int32_t count) {
    const struct blob *blob = &network->blob;
    return blob->bytes + blob->arena_bytes + blob->tensors[blob->input].bytes + network->prepared_bytes + network->scratch_bytes * (size_t)count;
}

size_t network_memory_bytes(const struct network *network) { return threads_memory(network, network->thread_count); }

static int prepare(struct network *network) {
    struct blob *blob = &network->blob;
    if (network_memory_bytes(network) > network->memory_limit)
        return NETWORK_TOO_LARGE;
    network->plans = calloc((size_t)blob->operation_count, sizeof *network->plans);
    if (!network->plans)
        return NETWORK_MEMORY;
    for (int32_t i = 0; i < blob->operation_count; i++) {
        struct operation *operation = &blob->operations[i];
        const struct operation_kind *kind = operation_kind(operation->opcode);
        network->copy_image |= kind->inputs && !kind->image && operation->input == blob->input;
        network->copy_image |= kind->inputs && operation->second == blob->input;
        for (int32_t r = 0; operation->opcode == CONCATENATE && r < operation->concatenate.count; r++)
            network->copy_image |= operation->concatenate.records[2 * r] == blob->input;
        if (operation->opcode != CONVOLUTION && operation->opcode != FLOAT_CONVOLUTION)
            continue;
        network->prepared_bytes += blob_decoded_bytes(operation);
        if (network_memory_bytes(network) > network->memory_limit)
            return NETWORK_TOO_LARGE;
        int status = blob_decode(blob, i);
        if (status)
            return status;
        struct plan *plan = network->plans[i] = calloc(1, sizeof *plan);
        const struct tensor *residual = operation->convolution.residual.right ? &blob->tensors[operation->second] : NULL;
        if (!plan || !plan_convolution(plan, &operation->convolution, &blob->tensors[operation->input], residual, &blob->tensors[operation->output]))
            return NETWORK_MEMORY;
        network->prepared_bytes += plan->prepared_bytes;
        network->scratch_bytes = plan->scratch_bytes > network->scratch_bytes ? plan->scratch_bytes : network->scratch_bytes;
        if (network_memory_bytes(network) > network->memory_limit)
            return NETWORK_TOO_LARGE;
    }
    size_t arena = ((size_t)blob->arena_bytes + SLACK + 63) / 64 * 64;
    /* Zeros, for image and output: the system gives them as they are needed, so that opening takes no time for memory. */
    network->memory = calloc(1, arena + network->scratch_bytes + SLACK + 63);
    network->image = calloc(1, blob->tensors[blob->input].bytes);
    if (!network->memory || !network->image)
        return NETWORK_MEMORY;
    network->arena = network->memory + (64 - (uintptr_t)network->memory % 64) % 64;
    network->scratch = network->arena + arena;
    return NETWORK_OK;
}

int network_open_memory(uint8_t *file, size_t bytes, size_t limit, struct network **out, struct refusal *refusal) {
    struct refusal ignored;
    refusal = refusal ? refusal : &ignored;
    *refusal = (struct refusal){NULL, -1, 0};
    *out = NULL;
    struct network *network = calloc(1, sizeof *network);
    if (!network) {
        free(file);
        return NETWORK_MEMORY;
    }
    network->file = file;
    network->thread_count = 1;
    network->memory_limit = limit;
    int status = blob_parse(&network->blob, file, bytes);
    if (!status) {
        status = prepare(network);
        refusal->needed = network_memory_bytes(network);
    }
    refusal->reason = network->blob.reason;
    refusal->operation = network->blob.bad_operation;
    if (status)
        network_close(network);
    else
        *out = network;
    return status;
}

int network_open_within(const char *path, int threads, size_t *memory, struct network **out) {
    uint8_t *file;
    size_t needed;
    *out = NULL;
    if (processor_lacks())
        return NETWORK_PROCESSOR;
    int status = network_read_file(path, *memory, &file, &needed);
    if (!status) {
        struct refusal refusal;
        status = network_open_memory(file, needed, *memory, out, &refusal);
        needed = refusal.needed;
    }
    if (!status) {
        status = network_set_threads(*out, threads);
        needed = threads_memory(*out, threads);
    }
    if (!status || status == NETWORK_TOO_LARGE)
        *memory = needed;
    if (status) {
        network_close(*out);
        *out = NULL;
    }
    return status;
}

int network_open(const char *path, int threads, struct network **out) {
    size_t memory = NETWORK_DEFAULT_MEMORY;
    return network_open_within(path, threads, &memory, out);
}

uint8_t *network_input(struct network *network, size_t shape[3]) {
    const struct tensor *tensor = &network->blob.tensors[network->blob.input];
    if (shape) {
        shape[0] = (size_t)tensor->height;
        shape[1] = (size_t)tensor->width;
        shape[2] = (size_t)tensor->channels;
    }
    return network->image;
}

const float *network_output(const struct network *network, size_t *count) {
    const struct tensor *tensor = &network->blob.tensors[network->blob.output];
    if (count)
        *count = (size_t)tensor->elements;
    return (const float *)(const void *)(network->arena + tensor->offset);
}

struct convolution_work {
    const struct network *network;
    const struct plan *plan;
};

/* The part of thread ``index`` of a convolution. */
static void run_part(void *argument, int32_t index) {
    const struct convolution_work *work = argument;
    const struct network *network = work->network;
    const struct plan *plan = work->plan;
    uint8_t *scratch = index && network->threads ? network->more_scratch + (size_t)(index - 1) * network->scratch_room : network->scratch;
    const struct part part = plan_part(plan, index, network->thread_count);
    if (part.row < part.row_end)
        plan->kernel->run(plan, &part, network->arena + plan->in->offset, network->arena + plan->out->offset, scratch);
}

static void run_convolution(const struct network *network, const struct plan *plan) {
    if (network->portable || plan->kernel->plain) {
        const struct part whole = {0, plan->out->height, 0, plan->out->channels};
        plan->plain->run(plan, &whole, network->arena + plan->in->offset, network->arena + plan->out->offset, network->scratch);
        return;
    }
    struct convolution_work work = {network, plan};
    if (network->threads && plan_part(plan, 1, network->thread_count).row_end)
        threads_run(network->threads, run_part, &work);
    else
        run_part(&work, network->part);
}

#if defined(__ARM_NEON)
struct rows_work {
    const struct network *network;
    const struct step *step;
};

/* The rows of thread ``index`` of another operation. */
static void run_rows(void *argument, int32_t index) {
    const struct rows_work *work = argument;
    int32_t height = work->step->out->height, count = work->network->thread_count;
    int32_t row = share(height, index, count), end = share(height, index + 1, count);
    if (row < end)
        operation_kind(work->step->operation->opcode)->rows(work->step, row, end);
}

static int run_vector(const struct network *network, const struct operation_kind *kind, const struct step *step) {
    struct rows_work work = {network, step};
    if (network->thread_count == 1 || step->out->elements < SMALL_OUTPUT || !kind->rows || !kind->rows(step, 0, 0))
        return network->part || (kind->vector && kind->vector(step));
    if (network->threads)
        threads_run(network->threads, run_rows, &work);
    else
        run_rows(&work, network->part);
    return 1;
}
#endif

static void run_operation(const struct network *network, const struct operation *operation) {
    const struct operation_kind *kind = operation_kind(operation->opcode);
    const struct step step = find_step(&network->blob, operation, network->arena, network->image);
    if (step.out->floating && kind->floats) {
        kind->floats(&step, network->portable);
        return;
    }
#if defined(__ARM_NEON)
    if (!network->portable && run_vector(network, kind, &step))
        return;
#endif
    kind->portable(&step);
}

void network_run_marked(struct network *network, void (*mark)(int32_t operation)) {
    const struct blob *blob = &network->blob;
    if (network->copy_image) {
        const struct tensor *input = &blob->tensors[blob->input];
        for (size_t i = 0; i < input->bytes; i++)
            network->arena[input->offset + i] = network->image[i] ^ 128;
    }
    for (int32_t i = 0; i < blob->operation_count; i++) {
        if (mark)
            mark(i);
        if (network->plans[i])
            run_convolution(network, network->plans[i]);
        else
            run_operation(network, &blob->operations[i]);
    }
    if (mark)
        mark(blob->operation_count);
}

int network_set_threads(struct network *network, int count) {
    threads_stop(network->threads);
    free(network->more_scratch);
    network->threads = NULL;
    network->more_scratch = NULL;
    network->thread_count = 1;
    if (count < 1 || count > MAXIMUM_THREADS)
        return NETWORK_THREADS;
    if (count == 1)
        return NETWORK_OK;
    if (threads_memory(network, count) > network->memory_limit)
        return NETWORK_TOO_LARGE;
    network->scratch_room = (network->scratch_bytes + SLACK + 63) / 64 * 64;
    network->more_scratch = aligned_alloc(64, (size_t)(count - 1) * network->scratch_room);
    network->threads = network->more_scratch ? threads_start(count) : NULL;
    if (!network->threads)
        return network->more_scratch ? NETWORK_THREADS : NETWORK_MEMORY;
    network->thread_count = count;
    return NETWORK_OK;
}

void network_run(struct network *network) { network_run_marked(network, NULL); }

void network_close(struct network *network) {
    if (!network)
        return;
    for (int32_t i = 0; network->plans && i < network->blob.operation_count; i++)
        if (network->plans[i]) {
            plan_free(network->plans[i]);
            free(network->plans[i]);
        }
    free(network->plans);
    threads_stop(network->threads);
    free(network->more_scratch);
    free(network->memory);
    free(network->image);
    free(network->file);
    blob_free(&network->blob);
    free(network);
}
