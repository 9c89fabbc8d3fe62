"""A set of uids as files hold it: DataComp's subset format, `u8,u8` records."""

import io
import tokenize
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.storage import Storage
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
    """The uids in all of these subset files.

    Raises:
        UserError: a file is not a .npy array of `u8,u8`.
    """
    records = [_records(storage, uri) for uri in uris]
    joined = np.concatenate(records) if records else np.empty(0, UID_DTYPE)
    return UidSet.of(joined["f0"].astype(np.uint64), joined["f1"].astype(np.uint64))


def _records(storage: Storage, uri: str) -> NDArray[np.void]:
    try:
        array = np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)
    except (ValueError, TypeError, EOFError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile) as error:
        raise UserError("not a subset file", where=uri, expected="a .npy array of `u8,u8`", found=error) from error
    if not isinstance(array, np.ndarray):
        raise UserError("not a subset file", where=uri, expected="a .npy array of `u8,u8`", found="an .npz archive")
    if array.dtype != UID_DTYPE or array.ndim != 1:
        raise UserError(
            "not a subset file", where=uri, expected="a .npy array of `u8,u8`", found=f"{array.dtype} {array.shape}"
        )
    return array
