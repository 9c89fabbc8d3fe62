"""Subset files as DataComp reads them: sorted `u8,u8` records, as .npy or as headerless bytes."""

import io
import struct
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.kernels.uid import UID_DTYPE, is_sorted, to_records

_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 4096
_OTHER_FORMATS = {
    b"PK\x03\x04": "an .npz or zip archive",
    b"PAR1": "a Parquet file",
    **{bytes([0x80, protocol]): "a pickle" for protocol in range(2, 6)},
}

Halves = NDArray[np.uint64]


@dataclass(frozen=True)
class SubsetFile:
    """A subset file whose header was checked; its records are read on demand."""

    uri: str
    offset: int
    """Of the first record."""
    num_records: int
    """Uids in the file; a uid may stand there several times."""
    storage: Storage

    @classmethod
    def open(cls, storage: Storage, uri: str) -> "SubsetFile":
        """Check kind and length of a file.

        Raises:
            UserError: neither a one-dimensional .npy array of `u8,u8` nor headerless records, or cut off.
        """
        size = storage.stat(uri).bytes
        head = storage.read_range(uri, 0, min(size, _HEADER_BYTES))
        if not head.startswith(_MAGIC):
            return cls(uri, 0, _raw_records(uri, head, size), storage)
        shape, offset = _npy_header(uri, head)
        expected = offset + shape * UID_DTYPE.itemsize
        if size != expected:
            raise _refused(uri, f"{expected} bytes for {shape} records", f"{size} bytes")
        return cls(uri, offset, shape, storage)

    def slices(self, max_records: int) -> Iterator[tuple[Halves, Halves]]:
        """The uids piece by piece.

        Raises:
            UserError: they do not ascend; DataComp's tools would silently take other samples for them.
        """
        last = np.zeros(0, UID_DTYPE)
        for first in range(0, self.num_records, max_records):
            count = min(max_records, self.num_records - first)
            start = self.offset + first * UID_DTYPE.itemsize
            data = self.storage.read_range(self.uri, start, count * UID_DTYPE.itemsize)
            records = np.frombuffer(data, UID_DTYPE)
            joint = np.concatenate([last, records])
            if not is_sorted(joint["f0"], joint["f1"]):
                raise UserError(
                    "a subset file is not sorted",
                    where=self.uri,
                    expected="uids in ascending order",
                    found=f"a smaller uid behind a larger one in records {first}..{first + count}",
                    next_step="sort it: `np.save(path, np.sort(np.load(path)))`",
                )
            last = records[-1:]
            yield np.ascontiguousarray(records["f0"]), np.ascontiguousarray(records["f1"])

    def records(self) -> NDArray[np.void]:
        """All uids as `u8,u8`, [n], in whatever order they stand in the file."""
        length = self.num_records * UID_DTYPE.itemsize
        data = self.storage.read_range(self.uri, self.offset, length) if length else b""
        return np.frombuffer(data, UID_DTYPE)

    def read(self) -> tuple[Halves, Halves]:
        """All uids, [n] and [n].

        Raises:
            UserError: as `slices`.
        """
        return next(self.slices(max(self.num_records, 1)), (np.zeros(0, np.uint64), np.zeros(0, np.uint64)))


def read_subset(storage: Storage, uri: str) -> tuple[Halves, Halves]:
    """Both halves of all uids of a subset file, ascending.

    Raises:
        UserError: not a subset file, cut off, or not sorted.
    """
    return SubsetFile.open(storage, uri).read()


def subset_bytes(hi: Halves, lo: Halves) -> bytes:
    """A subset file; equal uids, equal bytes.

    Args:
        hi: [n] sorted by (hi, lo).
        lo: [n].

    Raises:
        ValueError: they are not sorted.
    """
    if not is_sorted(hi, lo):
        raise ValueError("a subset file must be sorted by uid")
    sink = io.BytesIO()
    npy_format.write_array(sink, to_records(hi, lo), version=(1, 0), allow_pickle=False)
    return sink.getvalue()


def _npy_header(uri: str, head: bytes) -> tuple[int, int]:
    """Number of records and offset of the first."""
    stream = io.BytesIO(head)
    try:
        version = npy_format.read_magic(stream)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except (ValueError, TypeError, EOFError, SyntaxError, struct.error, tokenize.TokenError) as error:
        raise _refused(uri, "a .npy header", str(error).split(": <")[0]) from error  # without an address
    if dtype != UID_DTYPE or len(shape) != 1:
        raise _refused(uri, f"one dimension of {UID_DTYPE.descr}", f"shape {shape} of {dtype}")
    if shape[0] < 0:
        raise _refused(uri, "a number of records", f"shape {shape}")
    return int(shape[0]), stream.tell()


def _raw_records(uri: str, head: bytes, size: int) -> int:
    other = next((kind for magic, kind in _OTHER_FORMATS.items() if head.startswith(magic)), None)
    if other is not None:
        raise _refused(uri, "a .npy file or headerless records", other)
    if size == 0:
        raise _refused(uri, "a .npy file or headerless records", "an empty file")
    if size % UID_DTYPE.itemsize:
        raise _refused(uri, f"headerless records of {UID_DTYPE.itemsize} bytes", f"{size} bytes")
    records = np.frombuffer(head[: len(head) // UID_DTYPE.itemsize * UID_DTYPE.itemsize], UID_DTYPE)
    if not is_sorted(records["f0"], records["f1"]):  # nothing else tells records from any other bytes
        raise _refused(uri, "a .npy file, or headerless records in ascending order", f"bytes that begin {head[:16]!r}")
    return size // UID_DTYPE.itemsize


def _refused(uri: str, expected: str, found: str) -> UserError:
    return UserError(
        "not a subset file",
        where=uri,
        expected=expected,
        found=found,
        next_step="DataComp's format is a sorted one-dimensional array of dtype 'u8,u8': "
        "int(uid[:16], 16), int(uid[16:], 16)",
    )
