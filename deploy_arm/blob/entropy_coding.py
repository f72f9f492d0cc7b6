"""Indices of weights at nearly their entropy: static rANS (Duda 2013, arXiv 1311.2540) in interleaved lanes, as in FORMAT.md.

Frequencies have 12 bits, states 32, and a state gives or takes at most one 16-bit word a symbol. Entry i belongs to lane i modulo
the number of lanes, so that NumPy codes one row of all lanes at a time; all lanes share one stream of words.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.uint64]

FREQUENCY_BITS = 12
TOTAL = 1 << FREQUENCY_BITS  # of all frequencies
LEAST = 1 << 16  # of a state between symbols, and every state's first value
LANE_ENTRIES = 4096  # a lane costs 4 bytes: below 1.2 % where an entry holds 0.7 bits
FEW_LANES = 16  # up to these Python's numbers are faster than NumPy's rows
MOST_LANE_ENTRIES = 2 * LANE_ENTRIES  # more are refused, so that a small blob cannot ask for much time
ENDED = "the coded weights end too early: compile the candidate again"


def lanes_of(entries: int) -> int:
    """A power of two, so that a lane has 4096 to 8191 entries; 1 where there are fewer."""
    return 1 << max(0, (entries // LANE_ENTRIES).bit_length() - 1)


def frequencies(entries: Bytes, bits: int) -> Numbers:
    """How often each of the 2**bits symbols occurs, scaled to a total of 4096; every symbol that occurs has at least 1."""
    counts = np.bincount(entries, minlength=1 << bits)
    scaled = np.where(counts > 0, np.maximum(1, np.rint(counts * (TOTAL / entries.size))), 0).astype(np.int64)
    scaled[np.argmax(scaled)] += TOTAL - scaled.sum()  # by rounding: a few of at least 256
    return scaled.astype(np.uint64)


def _starts(table: Numbers) -> Numbers:
    return np.cumsum(table) - table


def estimated_bytes(entries: Bytes, bits: int) -> float:
    """What :func:`encode` will need, within a few bytes a lane."""
    table = frequencies(entries, bits)
    counts = np.bincount(entries, minlength=1 << bits)[table > 0]
    information = float(np.sum(counts * (FREQUENCY_BITS - np.log2(table[table > 0].astype(float)))))
    return information / 8 + 2 * (1 << bits)


def encode(entries: Bytes, bits: int) -> Bytes:
    """Entries (at least one, each below 2**bits) as table, states and words; :func:`decode` undoes it."""
    table, lanes = frequencies(entries, bits), lanes_of(entries.size)
    states, words = (_few_encoded if lanes <= FEW_LANES else _encoded)(entries, table, lanes)
    parts = [table.astype("<u2"), states.astype("<u4"), words.astype("<u2")]
    return np.concatenate([part.view(np.uint8) for part in parts])


def _encoded(entries: Bytes, table: Numbers, lanes: int) -> tuple[Numbers, Numbers]:
    """The states and the words, a row of all lanes at a time."""
    starts = _starts(table)
    limits = table << np.uint64(32 - FREQUENCY_BITS)
    states = np.full(lanes, LEAST, np.uint64)
    words: list[Numbers] = []
    shift, word, low = np.uint64(FREQUENCY_BITS), np.uint64(16), np.uint64(LEAST - 1)
    for first in range((entries.size - 1) // lanes * lanes, -1, -lanes):
        row = entries[first : first + lanes]
        frequency = table[row]
        state = states[: row.size]
        full = state >= limits[row]
        words.append(state[full] & low)
        state = np.where(full, state >> word, state)
        quotient = state // frequency
        states[: row.size] = (quotient << shift) + (state - quotient * frequency) + starts[row]
    return states, np.concatenate(words[::-1])


def _few_encoded(entries: Bytes, table: Numbers, lanes: int) -> tuple[Numbers, Numbers]:
    """The same, an entry at a time."""
    widths, starts, symbols = table.tolist(), _starts(table).tolist(), entries.tolist()
    limits = [width << 32 - FREQUENCY_BITS for width in widths]
    states = [LEAST] * lanes
    words: list[list[int]] = []
    for first in range((len(symbols) - 1) // lanes * lanes, -1, -lanes):
        given = []
        for lane, symbol in enumerate(symbols[first : first + lanes]):
            state = states[lane]
            if state >= limits[symbol]:
                given.append(state & LEAST - 1)
                state >>= 16
            quotient, rest = divmod(state, widths[symbol])
            states[lane] = (quotient << FREQUENCY_BITS) + rest + starts[symbol]
        words.append(given)
    in_order = [word for given in reversed(words) for word in given]
    return np.array(states, np.uint64), np.array(in_order, np.uint64)


def decode(coded: Bytes, bits: int, lanes: int, count: int) -> Bytes:
    """``count`` entries of ``bits`` bits from what :func:`encode` gave.

    Raises:
        UserError: it is damaged, or of another number of entries.
    """
    body = (2 << bits) + 4 * lanes
    fits = lanes > 0 and lanes & (lanes - 1) == 0 and lanes <= count <= lanes * MOST_LANE_ENTRIES
    if not fits or coded.size < body or coded.size % 2:
        raise UserError("the coded weights have a wrong size: compile the candidate again")
    table = coded[: 2 << bits].view("<u2").astype(np.uint64)
    if table.sum() != TOTAL:
        raise UserError("the frequencies of coded weights do not add up to 4096: compile the candidate again")
    states = coded[2 << bits : body].view("<u4").astype(np.uint64)
    words = coded[body:].view("<u2").astype(np.uint64)
    symbols = np.repeat(np.arange(1 << bits, dtype=np.uint8), table.astype(np.int64))
    biases = np.arange(TOTAL, dtype=np.uint64) - _starts(table)[symbols]
    widths = table[symbols]
    slots = _few_decoded if lanes <= FEW_LANES else _decoded
    entries, left, states = slots(words, states, widths, biases, count)
    if left or np.any(states != LEAST):
        raise UserError("the coded weights are damaged: compile the candidate again")
    return symbols[entries]


def _decoded(
    words: Numbers, states: Numbers, widths: Numbers, biases: Numbers, count: int
) -> tuple[Numbers, int, Numbers]:
    """The slot of each entry, how many words are left over, and the last states; a row of all lanes at a time."""
    lanes, position = states.size, 0
    slots = np.empty(count, np.uint64)
    mask, shift, word = np.uint64(TOTAL - 1), np.uint64(FREQUENCY_BITS), np.uint64(16)
    for first in range(0, count, lanes):
        state = states[: min(lanes, count - first)]
        slot = state & mask
        slots[first : first + lanes] = slot
        state[:] = widths[slot] * (state >> shift) + biases[slot]
        short = np.flatnonzero(state < LEAST)
        taken = words[position : position + short.size]
        if taken.size < short.size:
            raise UserError(ENDED)
        state[short] = (state[short] << word) | taken
        position += short.size
    return slots, words.size - position, states


def _few_decoded(
    words: Numbers, states: Numbers, widths: Numbers, biases: Numbers, count: int
) -> tuple[Numbers, int, Numbers]:
    """The same, an entry at a time."""
    lanes, position = states.size, 0
    given, last = words.tolist(), states.tolist()
    width, bias = widths.tolist(), biases.tolist()
    slots = []
    for entry in range(count):
        state = last[entry % lanes]
        slots.append(slot := state & TOTAL - 1)
        state = width[slot] * (state >> FREQUENCY_BITS) + bias[slot]
        if state < LEAST:
            if position == len(given):
                raise UserError(ENDED)
            state = state << 16 | given[position]
            position += 1
        last[entry % lanes] = state
    return np.array(slots, np.uint64), len(given) - position, np.array(last, np.uint64)
