"""Sample uids of a pool of any size, by their rank: 128 bits that look like digests, ascending in the rank.

The range of 64-bit high halves is divided into as many equal strata as there are samples, and each sample draws its
place in its stratum. So a bucket's uids, or any other range, can be made without the rest of the pool.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale.draws import Rows, bits, rows

_HI, _LO = 101, 102


@dataclass(frozen=True)
class Uids:
    """The uids of `num_samples` samples."""

    num_samples: int
    seed: int = 0

    def hi(self, rank: Rows) -> NDArray[np.uint64]:
        """[n] high halves."""
        return rank * self._stratum + bits(rank, self.seed, _HI) % self._stratum

    def lo(self, rank: Rows) -> NDArray[np.uint64]:
        """[n] low halves."""
        return bits(rank, self.seed, _LO)

    def bucket(self, number: int, num_bits: int) -> Rows:
        """Ranks of the samples in a uid-prefix bucket."""
        return rows(self._first(number, num_bits), self._first(number + 1, num_bits))

    @property
    def _stratum(self) -> np.uint64:
        return np.uint64(min(2**64 // self.num_samples, 2**64 - 1))

    def _first(self, bucket: int, num_bits: int) -> int:
        """Lowest rank whose uid is in this bucket or behind it."""
        edge = bucket << (64 - num_bits)
        if edge >= 2**64:
            return self.num_samples
        rank = min(edge // int(self._stratum), self.num_samples)
        if rank == self.num_samples:
            return rank
        return rank + (int(self.hi(rows(rank, rank + 1))[0]) < edge)  # the edge may cut through a stratum
