/* The compiler's macros say which instructions it may have used, Linux says which there are: AT_HWCAP, whose bits are fixed in its
 * header asm/hwcap.h. An instruction that is not there would end the process by a signal, somewhere in the middle of an inference. */
#include "processor.h"

#include <stddef.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

struct feature {
    const char *name;
    int bit;
};

static const struct feature NEEDED[] = {
#if defined(__ARM_FEATURE_DOTPROD)
    {"asimddp", 20},
#endif
#if defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
    {"asimdhp", 10},
#endif
#if defined(__ARM_FEATURE_FP16_SCALAR_ARITHMETIC)
    {"fphp", 9},
#endif
#if defined(__ARM_FEATURE_RCPC)
    {"lrcpc", 15},
#endif
#if defined(__ARM_FEATURE_ATOMICS)
    {"atomics", 8},
#endif
#if defined(__ARM_FEATURE_QRDMX)
    {"asimdrdm", 12},
#endif
#if defined(__ARM_FEATURE_CRC32)
    {"crc32", 7},
#endif
    {"asimd", 1},
};

const char *processor_lacks(void) {
    unsigned long has = getauxval(AT_HWCAP);
    for (size_t i = 0; has && i < sizeof NEEDED / sizeof *NEEDED; i++)
        if (!(has >> NEEDED[i].bit & 1))
            return NEEDED[i].name;
    return NULL;
}
#else
const char *processor_lacks(void) { return NULL; }
#endif
