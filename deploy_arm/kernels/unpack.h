/* Packed weights (../FORMAT.md, last section) back to int8 values. */
#ifndef UNPACK_H
#define UNPACK_H

#include <stddef.h>
#include <stdint.h>

#include "blob.h"
#include "tiling.h"

/* Decode ``count`` tiles from tile ``first`` on; tile i goes to out + i * stride. */
void unpack_tiles(const struct convolution *convolution, size_t first, size_t count, int8_t *out, size_t stride);

/* How many blocks of four output channels the convolution's taps have, kept or not. */
static inline int32_t blocks_of(const struct convolution *convolution, int32_t channels) {
    return convolution->kernel_height * convolution->kernel_width * (channels / OCTET);
}

/* Is block ``block`` of ``count`` of the output channels from QUAD x ``quad`` on there? */
static inline int is_kept(const struct convolution *convolution, int32_t quad, int32_t block, int32_t count) {
    return convolution->kept[(int64_t)quad * ((count + 7) / 8) + block / 8] >> (block % 8) & 1;
}

/* The weights of four output channels of which only ``kept`` blocks are in the file, from tile ``first`` on: ``rows`` gets OCTET x
 * ``count`` of each channel, with the zeros. Returns how many blocks there were. */
size_t unpack_quad(const struct convolution *convolution, int32_t quad, int32_t count, size_t first, int8_t *rows);

#if defined(__ARM_NEON)
/* As unpack_tiles for pairs of tiles: two channels of 8 k side by side, then the next two; pair i goes to out + i * stride. */
void unpack_pairs(const struct convolution *convolution, size_t first, size_t count, int8_t *out, size_t stride);

/* Tiles that are blocks of 4 channels x 8 k, one after the other: 4 k of each channel, then the other 4. */
void unpack_halves(const struct convolution *convolution, size_t first, size_t count, int8_t *out);
#endif

#endif
