/* What libFuzzer calls (https://llvm.org/docs/LibFuzzer.html): any bytes, as they are and with the checksum put right. */
#include <stdlib.h>
#include <string.h>

#include "damage.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t most);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t most, unsigned seed);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    int value = bytes ? data[bytes - 1] : 0;
    try_blob(data, bytes, value);
    uint8_t *copy = malloc(bytes + 1);
    if (!copy)
        return 0;
    memcpy(copy, data, bytes);
    if (put_right(copy, bytes))
        try_blob(copy, bytes, value);
    free(copy);
    return 0;
}

/* Half of the time damage that knows where a blob's tables lie, else the fuzzer's own mutations. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t most, unsigned seed) {
    if (bytes >= DAMAGE_LEAST && seed % 2)
        return damage(data, bytes, seed);
    bytes = LLVMFuzzerMutate(data, bytes, most);
    if (seed % 16)
        put_right(data, bytes);
    return bytes;
}
