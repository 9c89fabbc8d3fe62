"""Sorted runs: tables by uid that many tasks wrote apart, read back bucket by bucket.

A run is a directory of `2^bits + 1` offsets and then a small Parquet table for each uid prefix that has rows, one
behind the other. A bucket's task asks for two ranges of each run, whatever the number of prefixes; the row groups of
one Parquet file would have it read a footer that grows with them. How finely a run is cut depends on its own rows, so
that it serves pools of any size. Runs lie in entries (`pipeline.reuse`), or are private files of the stage which the
artifact does not list.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.storage import Storage, open_parquet
from stages.kernels.uid import bucket_of

_MAX_BITS = 20
_OFFSET = np.dtype("<u8")
RUN_FORMAT = 3
"""Part of the keys of entries: those of an earlier layout are not taken for this one."""
MOST_RUNS = 2048
"""Runs that a bucket's task reads from; where there are more, they are merged before."""
_BUCKET_BYTES = 1 << 30
"""Of stored metadata that a bucket takes in at most: where rows are long, buckets have fewer of them."""
_PIECE_ROWS = 512
"""Rows of a prefix, about: a bucket reads so many more of each run than it needs, where its own prefix is finer."""


class Run(NamedTuple):
    """Where a run lies, and how finely it is cut."""

    uri: str
    bits: int


def bits_for(rows: int, bucket_rows: int, metadata_bytes: int = 0) -> int:
    """Bits of the uid prefix at which tables are cut, so that a bucket's memory and work are bounded.

    Args:
        rows: of the tables.
        bucket_rows: that a bucket has at most.
        metadata_bytes: stored, of the rows' metadata; of these a bucket has at most 1 GiB.
    """
    num_buckets = max(1, -(-rows // bucket_rows), -(-metadata_bytes // _BUCKET_BYTES))
    return min(_MAX_BITS, (num_buckets - 1).bit_length())


def run_bits(rows: int) -> int:
    """Bits of the uid prefix at which a run of so many rows is cut."""
    return bits_for(rows, _PIECE_ROWS)


def sort_by_uid(table: pa.Table, *further: str) -> pa.Table:
    """Rows by (uid_hi, uid_lo, further columns), ascending; equal rows keep their order."""
    names = (*further[::-1], "uid_lo", "uid_hi")
    return table.take(pa.array(np.lexsort([table[name].to_numpy() for name in names])))


class RunBuilder:
    """A run while it is made: tables are added in the order of their uids."""

    def __init__(self, bits: int) -> None:
        """Nothing is in it yet; `bits` are those of the prefixes at which it is cut."""
        self._bits = bits
        self._sizes = np.zeros(1 << bits, np.uint64)
        self._sink = io.BytesIO()

    def add(self, table: pa.Table) -> None:
        """Append rows that are sorted by uid and share no prefix with those before."""
        prefix = bucket_of(table["uid_hi"].to_numpy(), self._bits)
        starts = np.flatnonzero(np.diff(prefix, prepend=-1)).tolist()
        for start, stop in itertools.pairwise([*starts, table.num_rows]):
            begun = self._sink.tell()
            piece = table.slice(start, stop - start)
            pq.write_table(piece, self._sink, compression="zstd", write_page_checksum=True)
            self._sizes[prefix[start]] = self._sink.tell() - begun

    def to_bytes(self) -> bytes:
        """The whole run."""
        directory = (len(self._sizes) + 1) * _OFFSET.itemsize
        ends = directory + np.cumsum(self._sizes)
        offsets = np.concatenate([[directory], ends]).astype(_OFFSET)
        return offsets.tobytes() + self._sink.getvalue()


def run_bytes(table: pa.Table, bits: int) -> bytes:
    """A table that is sorted by uid as a run, cut at each prefix of `bits` bits."""
    run = RunBuilder(bits)
    run.add(table)
    return run.to_bytes()


def run_rows(data: bytes, bits: int, schema: pa.Schema) -> pa.Table:
    """All rows of a run, in the columns and types of `schema`."""
    view = memoryview(data)
    offsets = _offsets(view[: _directory_bytes(bits)])
    tables = [conformed(piece, schema) for piece in _pieces(view[int(offsets[0]) :], offsets - offsets[0])]
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()


def read_bucket(storage: Storage, runs: Sequence[Run], bucket: int, bits: int, schema: pa.Schema) -> pa.Table:
    """All rows of one uid bucket from all runs, run after run, in the columns and types of `schema`.

    Columns that a run does not have are null.

    Args:
        storage: where runs are read.
        runs: to read from.
        bucket: number of the bucket.
        bits: of the buckets.
        schema: of the result.
    """
    tables = [schema.empty_table()]
    for run in runs:
        start, stop = _span(bucket, bits, run.bits)
        offsets = _offsets(storage.read_range(run.uri, start * _OFFSET.itemsize, (stop + 1 - start) * _OFFSET.itemsize))
        if offsets[-1] == offsets[0]:
            continue
        data = memoryview(storage.read_range(run.uri, int(offsets[0]), int(offsets[-1] - offsets[0])))
        pieces = [conformed(piece, schema) for piece in _pieces(data, offsets - offsets[0])]
        tables += pieces if run.bits >= bits else [_inside(piece, bucket, bits) for piece in pieces]
    return pa.concat_tables(tables).combine_chunks()


def merge_runs(
    runs: Sequence[bytes], schema: pa.Schema, *, bits: Sequence[int], to_bits: int, further: Sequence[str]
) -> bytes:
    """One run of all rows of several, cut at other prefixes.

    Memory: the runs as they are stored, and the rows of one prefix of the most coarsely cut.

    Args:
        runs: whole, in their order.
        schema: of their rows.
        bits: at which each of them is cut.
        to_bits: at which the result is cut.
        further: columns that decide between equal uids.
    """
    views = [memoryview(run) for run in runs]
    offsets = [_offsets(view[: _directory_bytes(cut)]) for view, cut in zip(views, bits, strict=True)]
    merged = RunBuilder(to_bits)
    coarse = min(to_bits, *bits)
    for prefix in range(1 << coarse):
        pieces: list[pa.Table] = []
        for view, cut, ends in zip(views, bits, offsets, strict=True):
            start, stop = _span(prefix, coarse, cut)
            inside = ends[start : stop + 1]
            pieces += _pieces(view[int(inside[0]) : int(inside[-1])], inside - inside[0])
        if pieces:
            table = pa.concat_tables([schema.empty_table(), *(conformed(piece, schema) for piece in pieces)])
            merged.add(sort_by_uid(table.combine_chunks(), *further))
    return merged.to_bytes()


def _span(bucket: int, bits: int, cut: int) -> tuple[int, int]:
    """First prefix of a run, and the one behind the last, in which rows of a bucket can be."""
    finer = cut - bits
    start = bucket << finer if finer >= 0 else bucket >> -finer
    return start, (bucket + 1) << finer if finer >= 0 else start + 1


def _directory_bytes(bits: int) -> int:
    return ((1 << bits) + 1) * _OFFSET.itemsize


def _inside(table: pa.Table, bucket: int, bits: int) -> pa.Table:
    first, last = bucket_range(bucket, bits)
    hi = table["uid_hi"]
    return table.filter(pc.and_(pc.greater_equal(hi, first), pc.less_equal(hi, last)))


def _offsets(data: bytes | memoryview) -> NDArray[np.int64]:
    return np.frombuffer(data, _OFFSET).astype(np.int64)


def _pieces(data: memoryview, offsets: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Tables between consecutive offsets, where there are any."""
    for start, stop in itertools.pairwise(offsets.tolist()):
        if stop > start:
            yield open_parquet(io.BytesIO(data[start:stop])).read()


def bucket_range(bucket: int, bits: int) -> tuple[pa.Scalar, pa.Scalar]:
    """Lowest and highest uid_hi of a bucket."""
    width = 1 << (64 - bits)
    return pa.scalar(bucket * width, pa.uint64()), pa.scalar((bucket + 1) * width - 1, pa.uint64())


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` in its types; those that the table does not have are null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
