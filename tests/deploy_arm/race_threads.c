/* Thousands of rounds of work on a pool, built with the thread sanitizer: plain variables are handed over in both directions. */
#include <stdio.h>
#include <unistd.h>

#include "threads.h"

struct sums {
    long given, parts[MAXIMUM_THREADS];
};

static void add(void *argument, int32_t index) {
    struct sums *sums = argument;
    sums->parts[index] += sums->given * (index + 1);
}

int main(void) {
    for (int32_t count = 2; count <= MAXIMUM_THREADS; count += 2) {
        struct threads *threads = threads_start(count);
        struct sums sums = {0, {0}};
        long total = 0, wanted = 0;
        if (!threads)
            return 1;
        for (long round = 0; round < 300; round++) {
            sums.given = round;
            if (round % 100 == 0)
                usleep(3000); /* until they sleep */
            threads_run(threads, add, &sums);
            wanted += round * count * (count + 1) / 2;
            total = 0;
            for (int32_t i = 0; i < count; i++)
                total += sums.parts[i];
            if (total != wanted)
                return 2;
        }
        threads_stop(threads);
        printf("%d %ld\n", (int)count, total);
    }
    threads_stop(threads_start(3)); /* without any work */
    return 0;
}
