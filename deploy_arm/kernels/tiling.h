/* The sizes that the kernels work in. The cost models and the packing in Python read them here: one ``NAME = VALUE,`` a line, VALUE of
 * numbers, earlier names and + - * / ( ). */
#ifndef TILING_H
#define TILING_H

enum {
    TILE = 32, /* packed weights: 8 output channels x 4 k, or 32 of a depthwise stream */

    /* All kernels: what is worked on at a time. */
    BAND_BYTES = 256 * 1024, /* padded input and output: half of a second-level cache of 512 KB */
    SEGMENT_BYTES = 2048,    /* of a pixel, so that the decoded weights of 16 output channels stay in the first-level cache */

    /* Dense: a tile of output channels x pixels in registers. */
    WIDE = 16,
    NARROW = 8,
    WIDE_PIXELS = 6,
    NARROW_PIXELS = 8,
    CHUNK_DEPTH = 2304, /* k; decoded weights of 16 channels, 36 KB, stay in the first-level cache; 3 x 3 x 256 of them are one chunk */
    PAIRED = 8,         /* k that small matrix products take at a time */
    MOST_TAPS = 64,     /* of a kernel; of a larger one all are read, with weights or without */

    /* Level-grouped: outputs side by side, and runs of weights of one level. */
    VECTORS = 4,      /* of 16 outputs each, at most, at a time */
    RUN_7 = 510,      /* weights whose sum of 7-bit values fits: 510 x 64 <= 32767 */
    RUN_8 = 254,      /* and of bytes: 254 x 128 <= 32767 */
    FARTHEST = 65535, /* bytes from a weight's place to the next: 16 bits */

    /* Blocks of zeros: one packed tile is a block of weights. */
    QUAD = 4,         /* output channels of a block */
    OCTET = 8,        /* input channels of one tap */
    BLOCK_PIXELS = 16, /* outputs at a time; the last of a band are 4, 8 or 12 */

    /* Floats. */
    FLOAT_WIDE = 16,   /* channels of weights that lie side by side, */
    FLOAT_NARROW = 8,  /* or for the last where no more are left */
    FLOAT_CHUNK = 640, /* k whose weights, of 16 channels, stay in the first-level cache */

    /* What is not worth waking a thread for. */
    SMALL_CONVOLUTION = 32768, /* multiplications */
    SMALL_OUTPUT = 16384,      /* elements of another operation */
};

#endif
