/* Tries blobs without a fuzzer, which any compiler can build.
 *
 *   replay FILE...                       each as it is and with the checksum put right
 *   replay --damage COUNT SEED FILE      COUNT damaged copies of a blob
 *
 * Prints how many were refused and how many ran; a sanitizer or a signal ends it otherwise. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "damage.h"
#include "runtime.h"

static long long outcomes[RAN + 1];

static int try_damaged(const uint8_t *blob, size_t bytes, int64_t count, uint64_t seed) {
    uint8_t *copy = malloc(bytes);
    for (int64_t i = 0; copy && i < count; i++) {
        memcpy(copy, blob, bytes);
        size_t length = damage(copy, bytes, seed << 32 | (uint64_t)i);
        outcomes[try_blob(copy, length, (int)(i & 255))]++;
    }
    free(copy);
    return copy ? 0 : 3;
}

int main(int count, char **arguments) {
    int damaged = count == 5 && !strcmp(arguments[1], "--damage"), status = 0;
    for (int i = damaged ? 4 : 1; i < count && !status; i++) {
        uint8_t *blob;
        size_t bytes;
        if (network_read_file(arguments[i], SIZE_MAX - 1, &blob, &bytes) || (damaged && bytes < DAMAGE_LEAST))
            return 2;
        if (damaged) {
            status = try_damaged(blob, bytes, strtoll(arguments[2], NULL, 10), strtoull(arguments[3], NULL, 10));
        } else {
            outcomes[try_blob(blob, bytes, i & 255)]++;
            if (put_right(blob, bytes))
                outcomes[try_blob(blob, bytes, i & 255)]++;
        }
        free(blob);
    }
    printf("%lld refused, %lld ran\n", outcomes[REFUSED], outcomes[RAN]);
    return status;
}
