/* Channels in another order. */
#include "kernels.h"

void portable_gather(const struct operation *operation, const struct tensor *in, const struct tensor *out, const int8_t *from, int8_t *to) {
    for (int64_t p = (int64_t)out->height * out->width; p; p--, from += in->channels)
        for (int32_t c = 0; c < out->channels; c++)
            *to++ = from[operation->indices[c]];
}

#if defined(__ARM_NEON)
#include "neon.h"

int neon_gather(const struct operation *operation, const struct tensor *in, const struct tensor *out, const int8_t *from, int8_t *to) {
    int32_t half = in->channels / 2;
    if (in->channels % 2 || in->channels != out->channels || half < 16)
        return 0;
    for (int32_t c = 0; c < half; c++)
        if (operation->indices[2 * c] != c || operation->indices[2 * c + 1] != half + c)
            return 0;
    /* Two groups shuffled: their channels alternate. */
    for (int64_t p = (int64_t)out->height * out->width; p; p--, from += in->channels, to += in->channels)
        for (int32_t c = 0; c < half;) {
            int8x16x2_t pair = {{vld1q_s8(from + c), vld1q_s8(from + half + c)}};
            vst2q_s8(to + 2 * c, pair);
            /* the last 16 once more where they are no whole number of them */
            c = c + 16 < half && c + 32 > half ? half - 16 : c + 16;
        }
    return 1;
}
#endif
