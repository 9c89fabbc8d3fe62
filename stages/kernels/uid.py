"""The uid codec: 32 hexadecimal digits at the edges, two unsigned 64-bit halves everywhere else."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

UID_DTYPE = np.dtype("<u8,<u8")
"""DataComp's subset record: (uid_hi, uid_lo)."""

_LOOKED_UP = 1 << 18
"""Uids that are looked up at a time: what a search holds beside its result does not grow with a bucket."""
_U64 = np.uint64
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_PAIRS = np.stack([_DIGITS[np.arange(256) >> 4], _DIGITS[np.arange(256) & 15]], axis=1)  # [256, 2] byte -> two digits


class ParsedUids(NamedTuple):
    """Halves of n uids, and how many had to be put into the normal form."""

    hi: NDArray[np.uint64]
    lo: NDArray[np.uint64]
    num_normalised: int
    """Uids that were shorter than 32 digits or had upper-case digits."""


def parse_hex(uids: Sequence[str] | pa.Array | pa.ChunkedArray) -> ParsedUids:
    """Parse hexadecimal uids; short ones are filled with zeros on the left, upper case is accepted.

    Args:
        uids: n strings.

    Raises:
        ValueError: a uid is null, empty, longer than 32 digits, or holds something else than hexadecimal digits.
    """
    column = pl.Series("uid", uids, dtype=pl.String) if isinstance(uids, Sequence) else pl.Series("uid", uids)
    column = column.cast(pl.String)
    if column.len() == 0:
        return ParsedUids(np.empty(0, _U64), np.empty(0, _U64), 0)
    valid = column.str.contains(r"^[0-9a-fA-F]{1,32}$").fill_null(False)
    if not valid.all():
        row = int((~valid).arg_max() or 0)
        raise ValueError(
            f"{int((~valid).sum())} of {column.len()} uids are not 1 to 32 hexadecimal digits; "
            f"the first is {column[row]!r} in row {row}"
        )
    normal = column.str.to_lowercase().str.zfill(32)
    digits = np.asarray(normal.to_numpy(), "S32").view(np.uint8).reshape(-1, 16, 2)  # [n, 16 bytes, 2 digits]
    nibbles = np.where(digits >= ord("a"), digits - (ord("a") - 10), digits - ord("0")).astype(np.uint8)
    halves = ((nibbles[..., 0] << 4) | nibbles[..., 1]).reshape(-1, 2, 8).copy().view(">u8")[..., 0]  # [n, 2]
    return ParsedUids(halves[:, 0].astype(_U64), halves[:, 1].astype(_U64), int((normal != column).sum()))


def to_hex(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> pa.StringArray:
    """Uids as 32 lower-case hexadecimal digits each."""
    halves = np.stack([hi, lo], axis=1).astype(">u8").view(np.uint8)  # [n, 16 bytes]
    text = np.ascontiguousarray(_PAIRS[halves])
    offsets = np.arange(len(hi) + 1, dtype=np.int64) * 32
    large = pa.LargeStringArray.from_buffers(len(hi), pa.py_buffer(offsets), pa.py_buffer(text))
    return large.cast(pa.string())


def bucket_of(hi: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """Number of the uid-prefix bucket, in [0, 2^bits)."""
    if bits == 0:
        return np.zeros(len(hi), np.int64)
    return (hi >> _U64(64 - bits)).astype(np.int64)


def to_records(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.void]:
    """Uids as records of DataComp's subset file."""
    records = np.empty(len(hi), UID_DTYPE)
    records["f0"], records["f1"] = hi, lo
    return records


def is_sorted(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> bool:
    """Whether uids ascend (equal neighbours allowed)."""
    return bool(np.all((hi[1:] > hi[:-1]) | ((hi[1:] == hi[:-1]) & (lo[1:] >= lo[:-1]))))


def uid_visit_order(
    hi: NDArray[np.uint64], lo: NDArray[np.uint64], visit: NDArray[np.unsignedinteger]
) -> NDArray[np.int64]:
    """Rows by (uid, visit): [n].

    One sort of a packed key, the visit in place of the lowest bits of the high half. Whether that put all rows in order
    is looked at; where two uids of nearly equal high halves meet, or rows repeat, all keys are sorted.
    """
    bits = _U64(int(visit.max(initial=0)).bit_length())
    order = np.argsort((hi >> bits << bits) | visit)
    hi_, lo_, visit_ = hi[order], lo[order], visit[order]
    same_hi, same_lo = hi_[1:] == hi_[:-1], lo_[1:] == lo_[:-1]
    ascends = (hi_[1:] > hi_[:-1]) | (same_hi & ((lo_[1:] > lo_[:-1]) | (same_lo & (visit_[1:] > visit_[:-1]))))
    return order if ascends.all() else np.lexsort((visit, lo, hi))


def run_starts(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.int64]:
    """First row of each run of equal uids, in a table sorted by uid."""
    if len(hi) == 0:
        return np.empty(0, np.int64)
    changed = (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])
    return np.concatenate([[0], np.flatnonzero(changed) + 1]).astype(np.int64)


def positions(
    base_hi: NDArray[np.uint64], base_lo: NDArray[np.uint64], hi: NDArray[np.uint64], lo: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Row of each uid in a sorted table of distinct uids; -1 where it is not there.

    Args:
        base_hi: [n] sorted by (hi, lo), without duplicates.
        base_lo: [n].
        hi: [q] what to look up, in any order.
        lo: [q].

    Returns:
        [q] rows of the base.
    """
    rows = np.full(len(hi), -1, np.int64)
    if len(base_hi):
        for start in range(0, len(hi), _LOOKED_UP):
            part = slice(start, start + _LOOKED_UP)
            rows[part] = _positions(base_hi, base_lo, hi[part], lo[part])
    return rows


def _positions(
    base_hi: NDArray[np.uint64], base_lo: NDArray[np.uint64], hi: NDArray[np.uint64], lo: NDArray[np.uint64]
) -> NDArray[np.int64]:
    left = np.searchsorted(base_hi, hi, "left")
    right = np.searchsorted(base_hi, hi, "right")
    widest = int((right - left).max(initial=0))
    end = right.copy()
    for _ in range(widest.bit_length()):  # binary search by the low half inside runs of equal high halves
        open_ = left < right
        middle = (left + right) // 2
        below = open_ & (base_lo[np.minimum(middle, len(base_lo) - 1)] < lo)
        left = np.where(below, middle + 1, left)
        right = np.where(open_ & ~below, middle, right)
    row = np.minimum(left, len(base_hi) - 1)
    found = (left < end) & (base_hi[row] == hi) & (base_lo[row] == lo)
    return np.where(found, row, -1).astype(np.int64)


def hash_u64(hi: NDArray[np.uint64], lo: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A keyed 64-bit hash of each uid (three rounds of splitmix64's finaliser)."""
    key = _mix(np.asarray([seed % (1 << 64)], _U64))
    return _mix(_mix(hi ^ key) ^ lo)


def hash_uniform(hi: NDArray[np.uint64], lo: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) that depends on uid and seed alone: draws that no partitioning changes."""
    return (hash_u64(hi, lo, seed) >> _U64(11)).astype(np.float64) * 2.0**-53


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = value + _U64(0x9E3779B97F4A7C15)  # wraps modulo 2^64, as it must
    mixed = (mixed ^ (mixed >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> _U64(27))) * _U64(0x94D049BB133111EB)
    return mixed ^ (mixed >> _U64(31))


def as_u64(values: ArrayLike) -> NDArray[np.uint64]:
    """A column of uid halves as a NumPy array."""
    return np.asarray(values, _U64)
