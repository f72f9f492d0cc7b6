/* Resizing is Pillow's (Image.resize with BILINEAR), so that its results are equal: a triangle as wide as two pixels of the smaller
 * of both images, first along the rows, then along the columns, its weights and sums in integers of 22 fractional bits, each pass
 * rounded to bytes. Compile with -ffp-contract=off: weights are computed in double precision, one rounding at a time. */
#include "image.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRACTION_BITS = 22, LARGEST_SIDE = 1 << 15 };

/* Resizes ``lines`` lines of ``from`` pixels to ``to`` pixels. Pixels of a line lie ``step`` apart, lines ``stride``, in bytes; the
 * output's likewise. Returns 0 where memory is missing. */
static int resize_lines(const uint8_t *source, uint8_t *target, int lines, int from, int to, size_t source_step,
                        size_t source_stride, size_t target_step, size_t target_stride) {
    double scale = (double)from / to, widened = scale < 1 ? 1 : scale;
    int most = (int)ceil(widened) * 2 + 1;
    double *weights = malloc((size_t)most * sizeof *weights);
    int32_t *fixed = malloc((size_t)most * sizeof *fixed);
    int enough = weights && fixed;
    for (int x = 0; enough && x < to; x++) {
        double center = (x + 0.5) * scale, inverse = 1.0 / widened, total = 0;
        int first = (int)(center - widened + 0.5), end = (int)(center + widened + 0.5);
        if (first < 0)
            first = 0;
        if (end > from)
            end = from;
        int count = end - first;
        for (int i = 0; i < count; i++) {
            double distance = fabs((i + first - center + 0.5) * inverse);
            total += weights[i] = distance < 1 ? 1 - distance : 0;
        }
        for (int i = 0; i < count; i++) {
            double weight = total != 0 ? weights[i] / total : weights[i];
            fixed[i] = (int32_t)(0.5 + weight * (1 << FRACTION_BITS));
        }
        for (int line = 0; line < lines; line++)
            for (int channel = 0; channel < 3; channel++) {
                const uint8_t *at = source + (size_t)line * source_stride + (size_t)first * source_step + channel;
                int32_t sum = 1 << (FRACTION_BITS - 1);
                for (int i = 0; i < count; i++)
                    sum += at[(size_t)i * source_step] * fixed[i];
                sum >>= FRACTION_BITS;
                target[(size_t)line * target_stride + (size_t)x * target_step + channel] = (uint8_t)(sum > 255 ? 255 : sum);
            }
    }
    free(weights);
    free(fixed);
    return enough;
}

/* The image resized to ``wide`` x ``high``, in place of *pixels, which is freed. Returns 0 where memory is missing. */
static int resize(uint8_t **pixels, int width, int height, int wide, int high) {
    if (wide != width) {
        uint8_t *rows = malloc((size_t)wide * height * 3);
        if (!rows || !resize_lines(*pixels, rows, height, width, wide, 3, (size_t)width * 3, 3, (size_t)wide * 3))
            return free(rows), 0;
        free(*pixels);
        *pixels = rows;
    }
    if (high != height) {
        uint8_t *columns = malloc((size_t)wide * high * 3);
        if (!columns || !resize_lines(*pixels, columns, wide, height, high, (size_t)wide * 3, 3, (size_t)wide * 3, 3))
            return free(columns), 0;
        free(*pixels);
        *pixels = columns;
    }
    return 1;
}

/* The next number of a header and the one character after it; -1 where there is none. Comments go from # to the end of the line. */
static int header_number(FILE *file) {
    int c, value = 0, comment = 0;
    while ((c = getc(file)) != EOF && (comment || c == '#' || c == ' ' || c == '\t' || c == '\r' || c == '\n'))
        comment = c != '\n' && (comment || c == '#');
    if (c < '0' || c > '9')
        return -1;
    for (; c >= '0' && c <= '9'; c = getc(file))
        if ((value = value * 10 + c - '0') > LARGEST_SIDE)
            return -1;
    return value;
}

static const char *read_pnm(FILE *file, int *width, int *height, uint8_t **pixels) {
    int magic = getc(file) == 'P' ? getc(file) : 0;
    if (magic != '6' && magic != '5')
        return "not a binary PPM or PGM file";
    *width = header_number(file), *height = header_number(file);
    if (header_number(file) != 255 || *width < 1 || *height < 1)
        return "the header is damaged, the pixels have not 8 bits, or a side is longer than 32768 pixels";
    size_t count = (size_t)*width * *height, channels = magic == '6' ? 3 : 1;
    if (!(*pixels = malloc(count * 3)))
        return "not enough memory";
    if (fread(*pixels, channels, count, file) != count)
        return "the file ends before the last pixel";
    if (channels == 1)
        for (size_t i = count; i-- > 0;)
            memset(*pixels + 3 * i, (*pixels)[i], 3);
    return NULL;
}

const char *image_read(const char *path, const struct preprocessing *how, uint8_t *pixels) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return "the file cannot be opened";
    int width, height;
    uint8_t *image = NULL;
    const char *error = read_pnm(file, &width, &height, &image);
    fclose(file);
    int wide = how->width, high = how->height;
    if (!error && (width != wide || height != high)) {
        if (how->crop) {
            double scale = how->margin * fmax((double)how->height / height, (double)how->width / width);
            double covered = nearbyint(width * scale), tall = nearbyint(height * scale);
            if (covered > LARGEST_SIDE || tall > LARGEST_SIDE)
                error = "the image is too long and narrow";
            else
                wide = covered > wide ? (int)covered : wide, high = tall > high ? (int)tall : high;
        }
        if (!error && !resize(&image, width, height, wide, high))
            error = "not enough memory";
    }
    if (!error)
        for (int y = 0; y < how->height; y++) {
            size_t top = (size_t)((high - how->height) / 2 + y), left = (size_t)(wide - how->width) / 2;
            memcpy(pixels + (size_t)y * how->width * 3, image + (top * wide + left) * 3, (size_t)how->width * 3);
        }
    free(image);
    return error;
}
