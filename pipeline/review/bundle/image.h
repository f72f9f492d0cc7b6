/* From an image file to the network's input, as image.py does it, byte for byte.
 *
 * The file is a binary PPM or PGM of 8 bits. Everything else becomes one by a command: `djpeg photo.jpg > photo.ppm`,
 * `pngtopnm photo.png > photo.ppm`, `convert photo.webp photo.ppm`, `ffmpeg -i photo.heic photo.ppm`. Turn photographs upright
 * first: a PPM cannot say how the camera was held. */
#ifndef IMAGE_H
#define IMAGE_H

#include <stdint.h>

/* The input's size, and how an image of another size is fitted: with ``crop`` it is resized until it just covers ``margin`` times
 * the size, and the centre is cut out; without, both sides are resized to the size. An image that has the size stays as it is. */
struct preprocessing {
    int height, width, crop;
    double margin;
};

/* Fills ``pixels``, height * width * 3 bytes: rows of RGB. Returns NULL, or what is wrong. */
const char *image_read(const char *path, const struct preprocessing *how, uint8_t *pixels);

#endif
