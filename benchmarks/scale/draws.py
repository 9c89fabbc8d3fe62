"""Random numbers by row number: row i of a stream always draws the same, whatever rows are made beside it.

So a table of any size can be made in pieces, in any order and by several threads, in bounded memory.
"""

import numpy as np
from numpy.typing import NDArray

from stages.kernels.uid import hash_u64

Rows = NDArray[np.uint64]


def rows(start: int, stop: int) -> Rows:
    """Row numbers [start, stop)."""
    return np.arange(start, stop, dtype=np.uint64)


def bits(row: Rows, seed: int, stream: int = 0) -> NDArray[np.uint64]:
    """[n] 64 random bits each; one row's bits of different streams are unrelated."""
    return hash_u64(row, np.full(1, stream, np.uint64), seed)


def uniform(row: Rows, seed: int, stream: int = 0) -> NDArray[np.float64]:
    """[n] in [0, 1)."""
    return (bits(row, seed, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(row: Rows, seed: int, stream: int = 0) -> NDArray[np.float32]:
    """[n] of the standard normal distribution (Box-Muller, from one draw's two halves)."""
    drawn = bits(row, seed, stream)
    radius = np.sqrt(-2 * np.log(((drawn >> np.uint64(32)).astype(np.float32) + 1) * np.float32(2.0**-32)))
    angle = (drawn & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2 * np.pi * 2.0**-32)
    return radius * np.cos(angle)


def integers(row: Rows, below: int, seed: int, stream: int = 0) -> NDArray[np.int64]:
    """[n] in [0, below), below 2^32."""
    return (((bits(row, seed, stream) >> np.uint64(32)) * np.uint64(below)) >> np.uint64(32)).astype(np.int64)


def shuffled(row: Rows, num_rows: int, seed: int, stream: int = 0) -> Rows:
    """[n] where a permutation of [0, num_rows) puts each row: a Feistel network, walked until it lands inside."""
    half = max(1, ((num_rows - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    place = np.array(row, np.uint64)
    outside = np.ones(len(place), np.bool_)
    while outside.any():
        walked = place[outside]
        left, right = walked >> np.uint64(half), walked & mask
        for round_ in range(4):
            left, right = right, left ^ (bits(right, seed, (stream << 3) + round_) & mask)
        place[outside] = (left << np.uint64(half)) | right
        outside[outside] = place[outside] >= np.uint64(num_rows)
    return place
