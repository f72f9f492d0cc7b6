/* library_user BLOB THREADS < images > results: what a person's program does with the shared library, and nothing else of ours. */
#include <stdio.h>
#include <stdlib.h>

#include "network.h"

int main(int count, char **arguments) {
    struct network *network;
    int status = network_open(arguments[1], count > 2 ? atoi(arguments[2]) : 1, &network);
    if (status)
        return status;
    size_t shape[3], results;
    uint8_t *image = network_input(network, shape);
    const float *result = network_output(network, &results);
    if (network_input(network, NULL) != image || network_output(network, NULL) != result || result[0] != 0)
        return 100;
    size_t bytes = shape[0] * shape[1] * shape[2];
    while (fread(image, 1, bytes, stdin) == bytes) {
        network_run(network);
        if (fwrite(result, sizeof *result, results, stdout) != results)
            return 101;
    }
    network_close(network);
    network_close(NULL);
    return 0;
}
