/* Classifies an image file and prints the scores.
 *
 *   with the library:    cc -ffp-contract=off usage.c image.c -L. -lnetwork -lm -Wl,-rpath,'$ORIGIN' -o usage
 *   with its sources:    cc -O3 -ffp-contract=off -march=@ARCHITECTURE@ usage.c image.c runtime/*.c -lm -pthread -o usage
 *   cross-compiled:      the same with aarch64-linux-gnu-gcc -static in place of cc
 *
 *   ./usage weights.blob photo.ppm
 *
 * The library itself, where the one here does not suit the machine's C library:
 *
 *   cc -O3 -ffp-contract=off -march=@ARCHITECTURE@ -fPIC -fvisibility=hidden -shared runtime/*.c -lm -pthread -o libnetwork.so
 */
#include <stdio.h>

#include "image.h"
#include "runtime/network.h"

static const struct preprocessing PREPROCESSING = {.height = @HEIGHT@, .width = @WIDTH@, .crop = @CROP@, .margin = @MARGIN@};

int main(int arguments, char **argument) {
    if (arguments < 3)
        return fprintf(stderr, "usage: usage BLOB IMAGE.ppm\n"), 2;
    struct network *network;
    int status = network_open(argument[1], 1, &network);
    if (status)
        return fprintf(stderr, "%s: status %d, see network.h\n", argument[1], status), status;
    const char *error = image_read(argument[2], &PREPROCESSING, network_input(network, NULL));
    if (error)
        return fprintf(stderr, "%s: %s\n", argument[2], error), 9;
    network_run(network);
    size_t count;
    const float *scores = network_output(network, &count);
    for (size_t i = 0; i < count; i++)
        printf("%.9g\n", scores[i]);
    network_close(network);
    return 0;
}
