/* Classifies an image file: the five most probable classes, with the softmax of their scores.
 *
 *   with CMake:          cmake -B build && cmake --build build
 *   with the library:    cc -ffp-contract=off usage.c image.c -L. -lnetwork -lm -Wl,-rpath,'$ORIGIN' -o usage
 *   with its sources:    cc -O3 -ffp-contract=off -march=@ARCHITECTURE@ usage.c image.c runtime/*.c -lm -pthread -o usage
 *   cross-compiled:      the same with aarch64-linux-gnu-gcc -static in place of cc
 *
 *   ./usage weights.blob labels.txt photo.ppm
 *
 * The library itself, where the one here does not suit the machine's C library:
 *
 *   cc -O3 -ffp-contract=off -march=@ARCHITECTURE@ -fPIC -fvisibility=hidden -shared runtime/*.c -lm -pthread -o libnetwork.so
 */
#include <math.h>
#include <stdio.h>

#include "image.h"
#include "runtime/network.h"

static const struct preprocessing PREPROCESSING = {.height = @HEIGHT@, .width = @WIDTH@, .crop = @CROP@, .margin = @MARGIN@};

/* Index of the largest score that comes after ``before`` in descending order, of equal ones the lower first; ``count`` as ``before``
 * means none yet, and as the result that there is none left. */
static size_t next_largest(const float *scores, size_t count, size_t before) {
    size_t best = count;
    for (size_t i = 0; i < count; i++) {
        int after = before == count || scores[i] < scores[before] || (scores[i] == scores[before] && i > before);
        if (after && (best == count || scores[i] > scores[best]))
            best = i;
    }
    return best;
}

static void print_line(FILE *file, size_t line) {
    int c;
    rewind(file);
    while (line && (c = getc(file)) != EOF)
        line -= c == '\n';
    while ((c = getc(file)) != EOF && c != '\n')
        putchar(c);
    putchar('\n');
}

int main(int arguments, char **argument) {
    if (arguments != 4)
        return fprintf(stderr, "usage: usage BLOB LABELS IMAGE.ppm\n"), 2;
    struct network *network;
    int status = network_open(argument[1], 1, &network);
    if (status)
        return fprintf(stderr, "%s: %s\n", argument[1], network_status_text(status)), status;
    FILE *labels = fopen(argument[2], "r");
    if (!labels)
        return fprintf(stderr, "%s: the file cannot be opened\n", argument[2]), 2;
    const char *error = image_read(argument[3], &PREPROCESSING, network_input(network, NULL));
    if (error)
        return fprintf(stderr, "%s: %s\n", argument[3], error), 9;
    network_run(network);
    size_t count, best;
    const float *scores = network_output(network, &count);
    const size_t first = best = next_largest(scores, count, count);
    double total = 0;
    for (size_t i = 0; i < count; i++)
        total += exp((double)scores[i] - scores[first]);
    for (int rank = 0; rank < 5 && best < count; rank++, best = next_largest(scores, count, best)) {
        printf("%5.1f %%  ", 100 * exp((double)scores[best] - scores[first]) / total);
        print_line(labels, best);
    }
    fclose(labels);
    network_close(network);
    return 0;
}
