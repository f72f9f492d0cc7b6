/* The program: a blob's network on the command line.
 *
 *   program info BLOB                     JSON about the network
 *   program run BLOB [OPTIONS]            standard input: raw uint8 images (height x width x channels) back to back until it
 *                                         ends; standard output: float32 results, back to back too
 *   program classify BLOB [OPTIONS]       the same input; prints the index of the largest result, a line per image
 *     --top K                             instead the K largest, largest first, a line each: number of the image, index, result
 *     --labels FILE                       and the index's line of FILE; fields are separated by tabs; K is 1 unless given
 *   program bench BLOB [OPTIONS]          one image; standard output: JSON {"ns": [...]}, one figure per repetition; standard
 *                                         error: the same in words
 *     --repeat N, --warmup N              repetitions (10) and runs before them that are not timed (1)
 *     --layers                            and "layers": [[...]], of each repetition the time of every operation
 *     --mark                              for emulators: one repetition, and a harmless system call, getsid(-(1000000 + i)),
 *                                         before operation i and once after the last
 *   program help                          this in short
 *
 * All take --memory MIB, the most memory that the network may have (1024). All but info take --threads N, which shares an inference among 1 (the default) to 8 threads, and --portable, which runs plain C
 * instead of the vector kernels, to compare. bench --part I/N does only what thread I of N would do, to count its instructions; its
 * results mean nothing.
 *
 * Exit status: 0 done; 2 wrong arguments; 3 to 8 and 11 to 13 as in network.h; 9 the input is not a whole number of images, or
 * none; 10 the output cannot be written. Messages go to standard error. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "operations.h"
#include "processor.h"
#include "runtime.h"

enum { EXIT_USAGE = 2, EXIT_INPUT = 9, EXIT_OUTPUT = 10 };

static const char USAGE[] =
    "usage: program info BLOB [--memory MIB]\n"
    "       program run BLOB [--threads N] [--portable] < images > results\n"
    "       program classify BLOB [--top K] [--labels FILE] [--threads N] [--portable] < images\n"
    "       program bench BLOB [--repeat N] [--warmup N] [--layers] [--mark] [--threads N] [--portable] < image\n"
    "images: raw uint8, height x width x channels, back to back; results: float32\n"
    "all take --memory MIB, the most memory that the network may have (1024)\n";

struct options {
    const char *labels; /* a file's path */
    const char *part;   /* I/N, see parse_part */
    long repeat, warmup, threads, top, memory; /* memory in MiB */
    int marked, portable, layers;
};

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

static size_t mebibytes(size_t bytes) { return (bytes >> 20) + (bytes % (1 << 20) != 0); }

static int too_large(const char *path, size_t needed, const struct options *options) {
    return complain(NETWORK_TOO_LARGE, "%s: %s: at least %zu MiB, of %ld; --memory %zu allows it, if the file is to be trusted\n", path,
                    network_status_text(NETWORK_TOO_LARGE), mebibytes(needed), options->memory, mebibytes(needed));
}

static int open_network(const char *path, const struct options *options, struct network **network) {
    uint8_t *file;
    size_t limit = (size_t)options->memory << 20, bytes;
    struct refusal refusal = {NULL, -1, 0};
    int status = network_read_file(path, limit, &file, &bytes);
    if (status == NETWORK_TOO_LARGE)
        return too_large(path, bytes, options);
    if (!status)
        status = network_open_memory(file, bytes, limit, network, &refusal);
    if (status == NETWORK_TOO_LARGE)
        return too_large(path, refusal.needed, options);
    if (status == NETWORK_DAMAGED && refusal.reason && refusal.operation >= 0)
        return complain(status, "%s: %s: operation %d: %s\n", path, network_status_text(status), (int)refusal.operation, refusal.reason);
    if (status == NETWORK_DAMAGED && refusal.reason)
        return complain(status, "%s: %s: %s\n", path, network_status_text(status), refusal.reason);
    return status ? complain(status, "%s: %s\n", path, network_status_text(status)) : 0;
}

/* Reads one image: 1, or 0 at the end of the input, or -1 where it ends within an image. */
static int read_image(struct network *network) {
    size_t bytes = network->blob.tensors[network->blob.input].bytes, done = 0;
    uint8_t *image = network_input(network, NULL);
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

static int output_failed(void) { return complain(EXIT_OUTPUT, "standard output cannot be written\n"); }

/* Runs ``each`` after the inference of every image. */
static int for_images(struct network *network, int (*each)(const struct network *network, size_t image, void *context), void *context) {
    size_t images = 0;
    int got, status = 0;
    for (; !status && (got = read_image(network)) == 1; images++) {
        network_run(network);
        status = each(network, images, context);
    }
    if (status)
        return output_failed();
    return got < 0 || !images ? image_missing(network) : 0;
}

static int send_result(const struct network *network, size_t image, void *context) {
    size_t count;
    const float *result = network_output(network, &count);
    (void)image, (void)context;
    return send_bytes(result, count * sizeof *result);
}

struct labels {
    char *text; /* lines that end with a zero byte each; NULL: no labels */
    const char **lines;
    size_t top; /* 0: print only the index */
};

/* Index of the largest result that comes after ``before`` in descending order, the lower index first of equals; ``count`` as
 * ``before`` means none. */
static size_t next_largest(const float *result, size_t count, size_t before) {
    size_t best = count;
    for (size_t i = 0; i < count; i++) {
        int after = before == count || result[i] < result[before] || (result[i] == result[before] && i > before);
        if (after && (best == count || result[i] > result[best]))
            best = i;
    }
    return best;
}

static int print_class(const struct network *network, size_t image, void *context) {
    const struct labels *labels = context;
    size_t count, index;
    const float *result = network_output(network, &count);
    index = next_largest(result, count, count);
    if (!labels->top)
        return print("%zu\n", index);
    for (size_t rank = 0; rank < labels->top && index < count; rank++, index = next_largest(result, count, index)) {
        const char *label = labels->text ? labels->lines[index] : "";
        if (print("%zu\t%zu\t%.6g%s", image, index, result[index], *label ? "\t" : "") || send_bytes(label, strlen(label)) || print("\n"))
            return EXIT_OUTPUT;
    }
    return 0;
}

/* Splits a file into one label per result. */
static int read_labels(const char *path, const struct network *network, struct labels *labels) {
    size_t bytes, count, found = 0;
    network_output(network, &count);
    int status = network_read_file(path, SIZE_MAX - 1, (uint8_t **)&labels->text, &bytes);
    labels->lines = status ? NULL : calloc(count, sizeof *labels->lines);
    if (status || !labels->lines)
        return complain(status ? status : NETWORK_MEMORY, "%s: %s\n", path, network_status_text(status ? status : NETWORK_MEMORY));
    for (char *line = labels->text, *end = line + bytes; line < end; found++) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop ? stop : end; /* there is a byte beyond the file's end */
        *stop = 0;
        if (stop > line && stop[-1] == '\r')
            stop[-1] = 0;
        if (found < count)
            labels->lines[found] = line;
        line = stop + 1;
    }
    if (found != count)
        return complain(EXIT_USAGE, "%s has %zu lines, the network %zu results: one label per line is needed\n", path, found, count);
    return 0;
}

static int command_classify(struct network *network, const struct options *options) {
    struct labels labels = {.top = (size_t)options->top};
    int status = options->labels ? read_labels(options->labels, network, &labels) : 0;
    if (options->labels && !labels.top)
        labels.top = 1;
    status = status ? status : for_images(network, print_class, &labels);
    free(labels.lines);
    free(labels.text);
    return status;
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

static int64_t *stamps; /* of the present run: before each operation, and after the last */

static void stamp(int32_t operation) { stamps[operation] = now(); }

static int ascending(const void *a, const void *b) {
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static void summarize(int64_t *times, long count, const struct options *options) {
    qsort(times, (size_t)count, sizeof *times, ascending);
    double median = (double)(times[(count - 1) / 2] + times[count / 2]) / 2e6;
    complain(0, "median %.4g ms of %ld (fastest %.4g, slowest %.4g; %.4g per second), %ld thread%s, %ld run%s before\n", median, count,
             (double)times[0] / 1e6, (double)times[count - 1] / 1e6, 1e3 / median, options->threads, options->threads == 1 ? "" : "s",
             options->warmup, options->warmup == 1 ? "" : "s");
}

static int command_bench(struct network *network, const struct options *options) {
    long count = options->marked ? 1 : options->repeat;
    size_t marks = options->layers ? (size_t)network->blob.operation_count + 1 : 0;
    int64_t *times = calloc(((size_t)count + 1) * (1 + marks), sizeof *times), *all = times + count + 1;
    if (!times)
        return complain(NETWORK_MEMORY, "%s\n", network_status_text(NETWORK_MEMORY));
    int status = read_image(network) == 1 ? 0 : image_missing(network);
    if (!status) {
        for (long i = 0; i < options->warmup; i++)
            network_run(network);
        for (long i = 0; i < count; i++) {
            stamps = all + (size_t)i * marks;
            int64_t start = now();
            network_run_marked(network, options->marked ? mark : options->layers ? stamp : NULL);
            times[i] = now() - start;
        }
        status = print("{\"ns\": [");
        for (long i = 0; i < count && !status; i++)
            status = print("%s%lld", i ? ", " : "", (long long)times[i]);
        status = status ? status : print("]");
        for (long i = 0; i < count && marks > 1 && !status; i++)
            for (size_t j = 0; j + 1 < marks && !status; j++) {
                const int64_t *run = all + (size_t)i * marks;
                status = print("%s%lld", j ? ", " : i ? "], [" : ", \"layers\": [[", (long long)(run[j + 1] - run[j]));
            }
        if (status || print(marks > 1 && count ? "]]}\n" : "}\n"))
            status = output_failed();
        else if (count && !options->marked)
            summarize(times, count, options);
    }
    free(times);
    return status;
}

static int command_info(const struct network *network) {
    const struct blob *blob = &network->blob;
    const struct tensor *in = &blob->tensors[blob->input], *out = &blob->tensors[blob->output];
    int status = print("{\"version\": %u, \"blob_bytes\": %zu, \"input\": [%d, %d, %d], \"outputs\": %lld, \"tensors\": %d,\n"
                       " \"arena_bytes\": %u, \"scratch_bytes\": %zu, \"prepared_bytes\": %zu, \"memory_bytes\": %zu,\n \"operations\": [",
                       (unsigned)blob->version, blob->bytes, (int)in->height, (int)in->width, (int)in->channels, (long long)out->elements, (int)blob->tensor_count,
                       (unsigned)blob->arena_bytes, network->scratch_bytes, network->prepared_bytes,
                       network_memory_bytes(network));
    for (int32_t i = 0; i < blob->operation_count && !status; i++) {
        const struct tensor *t = &blob->tensors[blob->operations[i].output];
        const struct plan *plan = network->plans[i];
        status = print("%s\n  {\"operation\": \"%s\", \"output\": [%d, %d, %d]", i ? "," : "", operation_kind(blob->operations[i].opcode)->name,
                       (int)t->height, (int)t->width, (int)t->channels);
        if (plan && !status)
            status = print(", \"kernel\": \"%s\", \"bits\": %d, \"multiplications\": %lld, \"weights\": %lld, \"zeros\": %lld, "
                           "\"packed_bytes\": %zu, \"coded_bytes\": %zu",
                           plan->kernel->name, (int)plan->convolution->bits, (long long)plan->products,
                           (long long)plan->k * plan->out->channels, (long long)plan->zeros, plan->convolution->packed_bytes,
                           plan->convolution->coded_bytes);
        status = status ? status : print("}");
    }
    return status || print("\n ]}\n") ? output_failed() : 0;
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
    if (count == 2 && (!strcmp(arguments[1], "help") || !strcmp(arguments[1], "--help") || !strcmp(arguments[1], "-h")))
        return print("%s", USAGE);
    if (count < 3)
        return complain(EXIT_USAGE, "%s", USAGE);
    const char *lacking = processor_lacks();
    if (lacking)
        return complain(NETWORK_PROCESSOR, "%s: it has no %s (/proc/cpuinfo lists what it has); compile the network for another target\n",
                        network_status_text(NETWORK_PROCESSOR), lacking);
    const char *command = arguments[1];
    int is_info = !strcmp(command, "info"), is_run = !strcmp(command, "run"), is_classify = !strcmp(command, "classify");
    int is_bench = !strcmp(command, "bench");
    struct options options = {.repeat = 10, .warmup = 1, .threads = 1, .memory = (long)(NETWORK_DEFAULT_MEMORY >> 20)};
    if (!is_info && !is_run && !is_classify && !is_bench)
        return complain(EXIT_USAGE, "there is no command \"%s\"\n%s", command, USAGE);
    for (int i = 3; i < count; i++) {
        const char *option = arguments[i];
        if (!strcmp(option, "--portable") && !is_info) {
            options.portable = 1;
        } else if (!strcmp(option, "--mark") && is_bench) {
            options.marked = 1;
        } else if (!strcmp(option, "--layers") && is_bench) {
            options.layers = 1;
        } else if (!strcmp(option, "--part") && is_bench) {
            options.part = arguments[++i];
        } else if (!strcmp(option, "--labels") && is_classify) {
            options.labels = arguments[++i];
            if (!options.labels)
                return complain(EXIT_USAGE, "--labels needs a file\n");
        } else if (!strcmp(option, "--top") && is_classify) {
            options.top = parse_count(arguments[++i]);
            if (options.top < 1)
                return complain(EXIT_USAGE, "--top needs a number from 1 to 1000000\n");
        } else if (!strcmp(option, "--memory")) {
            options.memory = parse_count(arguments[++i]);
            if (options.memory < 1)
                return complain(EXIT_USAGE, "--memory needs a number of MiB from 1 to 1000000\n");
        } else if (!strcmp(option, "--threads") && !is_info) {
            options.threads = parse_count(arguments[++i]);
            if (options.threads < 1 || options.threads > MAXIMUM_THREADS)
                return complain(EXIT_USAGE, "--threads needs a number from 1 to %d\n", MAXIMUM_THREADS);
        } else if ((!strcmp(option, "--repeat") || !strcmp(option, "--warmup")) && is_bench) {
            long value = parse_count(arguments[++i]);
            if (value < 0)
                return complain(EXIT_USAGE, "%s needs a number from 0 to 1000000\n", option);
            *(option[2] == 'r' ? &options.repeat : &options.warmup) = value;
        } else {
            return complain(EXIT_USAGE, "%s does not take \"%s\"\n%s", command, option, USAGE);
        }
    }
    struct network *network;
    int status = open_network(arguments[2], &options, &network);
    if (status)
        return status;
    network->portable = options.portable;
    status = network_set_threads(network, (int)options.threads);
    if (status == NETWORK_TOO_LARGE)
        too_large(arguments[2], network_memory_bytes(network) + network->scratch_bytes * (size_t)(options.threads - 1), &options);
    else if (status)
        complain(status, "%ld threads cannot be started here\n", options.threads);
    else if (options.part && !parse_part(options.part, network))
        status = complain(EXIT_USAGE, "--part needs I/N with N from 1 to %d and I below N\n", MAXIMUM_THREADS);
    else if (is_info)
        status = command_info(network);
    else if (is_bench)
        status = command_bench(network, &options);
    else
        status = is_classify ? command_classify(network, &options) : for_images(network, send_result, NULL);
    network_close(network);
    return status;
}
