/* Entropy-coded weights (../FORMAT.md, "Coded weights") back to packed ones. */
#ifndef ENTROPY_H
#define ENTROPY_H

#include <stddef.h>
#include <stdint.h>

enum { MOST_LANE_ENTRIES = 8192 /* so that a small blob cannot ask for much time */ };

/* Can so many ``bytes`` at ``coded`` (aligned to 2) be the start of ``entries`` entries of 2 to 4 bits in ``lanes`` lanes? */
int entropy_fits(const uint8_t *coded, size_t bytes, int32_t bits, int32_t lanes, int64_t entries);

/* Decode ``tiles`` of 32 entries, which fit, to packed tiles. An enum network_status: NETWORK_DAMAGED where the words are too few or
 * too many, or a state does not end as it must. */
int entropy_decode(const uint8_t *coded, size_t bytes, int32_t bits, int32_t lanes, uint8_t *packed, size_t tiles);

#endif
