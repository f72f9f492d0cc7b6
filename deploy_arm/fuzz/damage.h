/* What the fuzzer, the replay and their tests share: damaging a blob, and trying one. */
#ifndef DAMAGE_H
#define DAMAGE_H

#include <stddef.h>
#include <stdint.h>

/* Damages a blob of at least DAMAGE_LEAST bytes in place, mostly in the tables that hold all offsets, and returns its new length,
 * which is not larger. The same seed damages in the same way. */
enum { DAMAGE_LEAST = 128 };
size_t damage(uint8_t *data, size_t bytes, uint64_t seed);

/* Makes the size and the checksum those of the bytes, so that the checks behind them are reached. 1 if they were others. */
int put_right(uint8_t *data, size_t bytes);

/* Opens a copy of a blob, gives it an image of bytes ``value`` and runs it where that is cheap. */
enum outcome { REFUSED, OPENED, RAN };
enum outcome try_blob(const uint8_t *data, size_t bytes, int value);

#endif
