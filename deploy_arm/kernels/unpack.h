/* Packed weights (../FORMAT.md, last section) back to int8 values. */
#ifndef UNPACK_H
#define UNPACK_H

#include <stddef.h>
#include <stdint.h>

#include "blob.h"
#include "tiling.h"

/* Decode ``count`` tiles from tile ``first`` on; tile i goes to out + i * stride. */
void unpack_tiles(const struct convolution *convolution, size_t first, size_t count, int8_t *out, size_t stride);

#if defined(__ARM_NEON)
/* As unpack_tiles for pairs of tiles: two channels of 8 k side by side, then the next two; pair i goes to out + i * stride. */
void unpack_pairs(const struct convolution *convolution, size_t first, size_t count, int8_t *out, size_t stride);
#endif

#endif
