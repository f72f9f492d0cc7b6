/* The program: a blob's network on the command line.
 *
 *   program info BLOB                                        JSON about the network
 *   program run BLOB [--threads N] [--portable]              standard input: raw uint8 images (height x width x channels)
 *                                                            back to back until it ends; standard output: float32 results
 *   program classify BLOB [--threads N] [--portable]         the same input; prints the index of the largest result per image
 *   program bench BLOB [--repeat N] [--warmup N] [--mark]    one image; JSON {"ns": [...]}, one figure per repetition
 *
 * --threads N shares an inference among 1 (the default) to 8 threads; bench takes it too. With --mark there is one repetition, and getsid(-(1000000 + i)) is called before operation i and once after the last: a
 * harmless system call that an emulator can see. bench --part I/N does only what thread I of N would do, for such counts; its
 * results mean nothing. --portable runs plain C instead of the vector kernels, to compare.
 *
 * Exit status: 0 done; 2 wrong arguments; 3 to 8 as in network.h; 9 the input is not a whole number of images (or none);
 * 10 the output cannot be written; 11 the threads cannot be started. Messages go to standard error. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

enum { EXIT_USAGE = 2, EXIT_INPUT = 9, EXIT_OUTPUT = 10 };

static const char USAGE[] =
    "usage: program info BLOB\n"
    "       program run BLOB [--threads N] [--portable] < images > results\n"
    "       program classify BLOB [--threads N] [--portable] < images\n"
    "       program bench BLOB [--repeat N] [--warmup N] [--mark] [--threads N] [--portable] < image\n";

static int send_bytes(const void *bytes, size_t count) {
    const uint8_t *from = bytes;
    while (count) {
        ssize_t done = write(STDOUT_FILENO, from, count);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return EXIT_OUTPUT;
        from += done;
        count -= (size_t)done;
    }
    return 0;
}

/* Formats up to 1000 characters to standard output. */
__attribute__((format(printf, 1, 2))) static int print(const char *format, ...) {
    char text[1000];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return send_bytes(text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1);
}

/* Formats a message to standard error and returns ``status``. */
__attribute__((format(printf, 2, 3))) static int complain(int status, const char *format, ...) {
    char text[1000];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ssize_t ignored = write(STDERR_FILENO, text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1);
    (void)ignored;
    return status;
}

static const char *status_text(int status) {
    switch (status) {
    case NETWORK_CANNOT_READ: return "the file cannot be read";
    case NETWORK_NOT_A_BLOB: return "this is not a network blob";
    case NETWORK_VERSION: return "the blob's format is of another version: compile the network again";
    case NETWORK_CHECKSUM: return "the blob is damaged (size or checksum): copy it again";
    case NETWORK_DAMAGED: return "the blob is not valid";
    default: return "not enough memory";
    }
}

static int open_network(const char *path, struct network **network) {
    uint8_t *file;
    size_t bytes;
    const char *reason = NULL;
    int32_t operation = -1;
    int status = network_read_file(path, &file, &bytes);
    if (!status)
        status = network_open_memory(file, bytes, network, &reason, &operation);
    if (status == NETWORK_DAMAGED && reason && operation >= 0)
        return complain(status, "%s: %s: operation %d: %s\n", path, status_text(status), (int)operation, reason);
    if (status == NETWORK_DAMAGED && reason)
        return complain(status, "%s: %s: %s\n", path, status_text(status), reason);
    return status ? complain(status, "%s: %s\n", path, status_text(status)) : 0;
}

/* Reads one image: 1, or 0 at the end of the input, or -1 where it ends within an image. */
static int read_image(struct network *network) {
    size_t bytes, done = 0;
    uint8_t *image = network_input(network, &bytes);
    while (done < bytes) {
        ssize_t count = read(STDIN_FILENO, image + done, bytes - done);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return done || count < 0 ? -1 : 0;
        done += (size_t)count;
    }
    return 1;
}

static int image_missing(struct network *network) {
    const struct tensor *t = &network->blob.tensors[network->blob.input];
    return complain(EXIT_INPUT, "standard input must hold whole images of %lld bytes (%d x %d x %d, uint8)\n", (long long)t->elements,
                    (int)t->height, (int)t->width, (int)t->channels);
}

static int command_run(struct network *network, int classify) {
    int got;
    while ((got = read_image(network)) == 1) {
        network_run(network);
        size_t count, best = 0;
        const float *result = network_output(network, &count);
        for (size_t i = 1; classify && i < count; i++)
            best = result[i] > result[best] ? i : best;
        int status = classify ? print("%zu\n", best) : send_bytes(result, count * sizeof *result);
        if (status)
            return complain(status, "standard output cannot be written\n");
    }
    return got < 0 ? image_missing(network) : 0;
}

static void mark(int32_t operation) {
    pid_t ignored = getsid(-(1000000 + operation));
    (void)ignored;
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int command_bench(struct network *network, long repeat, long warmup, int marked) {
    if (read_image(network) != 1)
        return image_missing(network);
    for (long i = 0; i < warmup; i++)
        network_run(network);
    int status = print("{\"ns\": [");
    for (long i = 0; i < (marked ? 1 : repeat) && !status; i++) {
        int64_t start = now();
        network_run_marked(network, marked ? mark : NULL);
        int64_t end = now();
        status = print("%s%lld", i ? ", " : "", (long long)(end - start));
    }
    return status || print("]}\n") ? complain(EXIT_OUTPUT, "standard output cannot be written\n") : 0;
}

static int command_info(const struct network *network) {
    static const char *const names[] = {"",          "input_table",  "convolution", "add",   "concatenate", "max_pool",
                                        "average_pool", "table", "slice",       "pad", "reshape",     "output",
                                        "multiply",  "gather",       "layer_norm",  "limit"};
    const struct blob *blob = &network->blob;
    const struct tensor *in = &blob->tensors[blob->input], *out = &blob->tensors[blob->output];
    int status = print("{\"version\": 1, \"blob_bytes\": %zu, \"input\": [%d, %d, %d], \"outputs\": %lld, \"tensors\": %d,\n"
                       " \"arena_bytes\": %u, \"scratch_bytes\": %zu, \"prepared_bytes\": %zu, \"memory_bytes\": %zu,\n \"operations\": [",
                       blob->bytes, (int)in->height, (int)in->width, (int)in->channels, (long long)out->elements, (int)blob->tensor_count,
                       (unsigned)blob->arena_bytes, network->scratch_bytes, network->prepared_bytes,
                       blob->bytes + blob->arena_bytes + network->scratch_bytes + network->prepared_bytes + in->bytes);
    for (int32_t i = 0; i < blob->operation_count && !status; i++) {
        const struct tensor *t = &blob->tensors[blob->operations[i].output];
        const struct plan *plan = network->plans[i];
        status = print("%s\n  {\"operation\": \"%s\", \"output\": [%d, %d, %d]", i ? "," : "", names[blob->operations[i].opcode],
                       (int)t->height, (int)t->width, (int)t->channels);
        if (plan && !status)
            status = print(", \"kernel\": \"%s\", \"bits\": %d, \"multiplications\": %lld, \"weights\": %lld, \"zeros\": %lld",
                           plan_kernel_name(plan), (int)plan->convolution->bits, (long long)plan->products,
                           (long long)plan->k * plan->out->channels, (long long)plan->zeros);
        status = status ? status : print("}");
    }
    return status || print("\n ]}\n") ? complain(EXIT_OUTPUT, "standard output cannot be written\n") : 0;
}

/* A count of at most a million, or -1. */
static long parse_count(const char *text) {
    char *end;
    long value = text ? strtol(text, &end, 10) : -1;
    return text && *text && !*end && value >= 0 && value <= 1000000 ? value : -1;
}

/* I/N with N from 1 to MAXIMUM_THREADS, I below it; 0 if the text is something else. */
static int parse_part(const char *text, struct network *network) {
    int part, count, length = 0;
    if (!text || sscanf(text, "%d/%d%n", &part, &count, &length) != 2 || text[length] || part < 0 || part >= count || count > MAXIMUM_THREADS)
        return 0;
    network->part = part, network->thread_count = count;
    return 1;
}

int main(int count, char **arguments) {
    if (count < 3)
        return complain(EXIT_USAGE, "%s", USAGE);
    const char *command = arguments[1];
    int is_info = !strcmp(command, "info"), is_run = !strcmp(command, "run"), is_classify = !strcmp(command, "classify");
    int is_bench = !strcmp(command, "bench"), marked = 0, portable = 0;
    long repeat = 10, warmup = 1, threads = 1;
    const char *part = NULL;
    if (!is_info && !is_run && !is_classify && !is_bench)
        return complain(EXIT_USAGE, "there is no command \"%s\"\n%s", command, USAGE);
    for (int i = 3; i < count; i++) {
        const char *option = arguments[i];
        if (!strcmp(option, "--portable") && !is_info) {
            portable = 1;
        } else if (!strcmp(option, "--mark") && is_bench) {
            marked = 1;
        } else if (!strcmp(option, "--part") && is_bench) {
            part = arguments[++i];
        } else if (!strcmp(option, "--threads") && !is_info) {
            threads = parse_count(arguments[++i]);
            if (threads < 1 || threads > MAXIMUM_THREADS)
                return complain(EXIT_USAGE, "--threads needs a number from 1 to %d\n", MAXIMUM_THREADS);
        } else if ((!strcmp(option, "--repeat") || !strcmp(option, "--warmup")) && is_bench) {
            long value = parse_count(arguments[++i]);
            if (value < 0)
                return complain(EXIT_USAGE, "%s needs a number from 0 to 1000000\n", option);
            *(option[2] == 'r' ? &repeat : &warmup) = value;
        } else {
            return complain(EXIT_USAGE, "%s does not take \"%s\"\n%s", command, option, USAGE);
        }
    }
    struct network *network;
    int status = open_network(arguments[2], &network);
    if (status)
        return status;
    network->portable = portable;
    status = threads > 1 ? network_set_threads(network, (int)threads) : 0;
    if (status) {
        network_close(network);
        return complain(status, "%ld threads cannot be started here\n", threads);
    }
    if (part && !parse_part(part, network))
        status = complain(EXIT_USAGE, "--part needs I/N with N from 1 to %d and I below N\n", MAXIMUM_THREADS);
    else if (is_info)
        status = command_info(network);
    else
        status = is_bench ? command_bench(network, repeat, warmup, marked) : command_run(network, is_classify);
    network_close(network);
    return status;
}
