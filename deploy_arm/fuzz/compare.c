/* Runs blobs in every way there is, and compares the results bit by bit (what is not a number equals any other such).
 *
 *   compare THREADS FILE...    plain C, the vector kernels, and these with 2 up to THREADS threads
 *
 * Prints how many were the same. Exit status: 0 all; 1 results differ, 2 a blob is refused: the file's name is printed; a sanitizer
 * or a signal ends it otherwise, with the name of the file on standard error before it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

enum { IMAGES = 3 };

static struct network *open_copy(const uint8_t *blob, size_t bytes) {
    uint8_t *exact = malloc(bytes); /* so that reading beyond the end is seen */
    struct network *network = NULL;
    if (exact) {
        memcpy(exact, blob, bytes);
        network_open_memory(exact, bytes, NETWORK_DEFAULT_MEMORY, &network, NULL);
    }
    return network;
}

/* Image ``number`` of black, white and random ones. */
static void run_image(struct network *network, int number) {
    size_t shape[3];
    uint8_t *image = network_input(network, shape);
    uint32_t state = 1;
    for (size_t i = 0; i < shape[0] * shape[1] * shape[2]; i++) {
        state = state * 1664525u + 1013904223u;
        image[i] = number < 2 ? (uint8_t)(255 * number) : (uint8_t)(state >> 24);
    }
    network_run(network);
}

static int same(const float *one, const float *two, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(one + i, two + i, sizeof *one) && !(isnan(one[i]) && isnan(two[i])))
            return 0;
    return 1;
}

/* As the exit status. */
static int compare(const uint8_t *blob, size_t bytes, int threads) {
    struct network *plain = open_copy(blob, bytes), *vector = open_copy(blob, bytes);
    int status = plain && vector ? 0 : 2;
    if (plain)
        plain->portable = 1;
    for (int count = 1; !status && count <= threads; count++) {
        status = network_set_threads(vector, count);
        for (int number = 0; !status && number < IMAGES; number++) {
            size_t results;
            run_image(plain, number);
            run_image(vector, number);
            status = !same(network_output(plain, &results), network_output(vector, NULL), results);
        }
    }
    network_close(plain);
    network_close(vector);
    return status;
}

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    for (int i = 2; i < count; i++) {
        uint8_t *blob;
        size_t bytes;
        fprintf(stderr, "%s\n", arguments[i]);
        int status = network_read_file(arguments[i], SIZE_MAX - 1, &blob, &bytes);
        if (status)
            return 2;
        status = compare(blob, bytes, threads);
        free(blob);
        if (status) {
            printf("%s: %s\n", arguments[i], status == 1 ? "results differ" : "refused");
            return status;
        }
    }
    printf("%d the same\n", count - 2);
    return 0;
}
