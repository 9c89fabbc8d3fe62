"""A set of uids as files hold it: DataComp's subset format, `u8,u8` records."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.storage import Storage
from stages.formats.npy import SubsetFile
from stages.kernels.uid import UID_DTYPE, positions

Halves = NDArray[np.uint64]


@dataclass(frozen=True)
class UidSet:
    """Distinct uids, sorted."""

    hi: Halves
    lo: Halves

    @classmethod
    def of(cls, hi: Halves, lo: Halves) -> "UidSet":
        """The set of these uids, in any order, with or without repetitions."""
        order = np.lexsort((lo, hi))
        hi, lo = hi[order], lo[order]
        first = np.ones(len(hi), np.bool_)
        first[1:] = (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])
        return cls(hi[first], lo[first])

    def __len__(self) -> int:
        return len(self.hi)

    def contains(self, hi: Halves, lo: Halves) -> NDArray[np.bool_]:
        """[n] whether each uid is in the set."""
        return positions(self.hi, self.lo, hi, lo) >= 0


def read_uid_set(storage: Storage, uris: Sequence[str]) -> UidSet:
    """The uids in all of these subset files, which need not be sorted.

    Raises:
        UserError: a file is no subset file (see `SubsetFile.open`).
    """
    records = [SubsetFile.open(storage, uri).records() for uri in uris]
    joined = np.concatenate(records) if records else np.empty(0, UID_DTYPE)
    return UidSet.of(joined["f0"].astype(np.uint64), joined["f1"].astype(np.uint64))
