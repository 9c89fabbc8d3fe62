"""Rows in any order to score buckets, without a shuffle: split by uid prefix, then merge each bucket.

A split part holds its rows as fixed-width records, one bucket behind the other, so that the rows of one bucket are one
range of the file; only the merge sorts them. Parts are private to the artifact that they lie in, whose manifest does
not list them, or lie in entries (`pipeline.reuse`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import ArtifactWriter, FileEntry
from pipeline.errors import RunError
from pipeline.storage import join
from stages.kernels.buckets import bucket_path
from stages.kernels.uid import bucket_of, run_starts, uid_visit_order

FOLDER = "parts"
_RADIX_BITS = 16
MERGE_BYTES_PER_ROW = 150
"""What merging holds: records as read and sorted, keys, columns, and the file."""


class SplitPart(NamedTuple):
    """A file of records, one bucket behind the other."""

    uri: str
    counts: NDArray[np.int64]
    """[buckets] records of each bucket."""


class Piece(NamedTuple):
    """Consecutive records of a split part."""

    uri: str
    first: int
    num_rows: int


class BucketPieces(NamedTuple):
    """All records of one bucket."""

    bucket: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """Records in all pieces."""
        return sum(piece.num_rows for piece in self.pieces)


class MergedBucket(NamedTuple):
    """A finished bucket and what is in it."""

    file: FileEntry
    scored: int
    """Distinct uids."""
    visits: int
    """Highest visit + 1."""


def split_by_bucket(table: pa.Table, writer: ArtifactWriter, stem: str, bits: int) -> SplitPart:
    """Put a table as a split part.

    Args:
        table: fixed-width columns, uid_hi, uid_lo and visit among them, without nulls.
        writer: of the artifact that is being made.
        stem: what the part was made from; its content's digest is added.
        bits: of the uid prefix.
    """
    bucket = bucket_of(table["uid_hi"].to_numpy(), bits)
    # Of small numbers a stable sort is a radix sort, many times as fast as one by uid.
    records = _records(table, np.argsort(bucket.astype(np.uint16) if bits <= _RADIX_BITS else bucket, kind="stable"))
    file = writer.put_by_content(f"{FOLDER}/{stem}", ".records", records.tobytes())
    return split_part(join(writer.root, file.path), records, bits)


def sorted_records(table: pa.Table) -> NDArray[np.void]:
    """Rows of a table as records in uid order.

    Args:
        table: fixed-width columns, uid_hi, uid_lo and visit among them, without nulls.
    """
    return _records(table, uid_visit_order(*(table[name].to_numpy() for name in ("uid_hi", "uid_lo", "visit"))))


def split_part(uri: str, records: NDArray[np.void], bits: int) -> SplitPart:
    """The split part of records that lie in a file, one bucket behind the other."""
    return SplitPart(uri, np.bincount(bucket_of(records["uid_hi"], bits), minlength=1 << bits))


def pieces_by_bucket(parts: Sequence[SplitPart], bits: int) -> list[BucketPieces]:
    """Where each bucket's records lie."""
    counts = np.stack([part.counts for part in parts]) if parts else np.zeros((0, 1 << bits), np.int64)
    firsts = np.cumsum(counts, axis=1) - counts
    return [
        BucketPieces(
            bucket,
            tuple(
                Piece(parts[part].uri, int(firsts[part, bucket]), int(counts[part, bucket]))
                for part in np.flatnonzero(counts[:, bucket]).tolist()
            ),
        )
        for bucket in range(1 << bits)
    ]


def merge_bucket(pieces: BucketPieces, *, writer: ArtifactWriter, schema: pa.Schema) -> MergedBucket:
    """Put one bucket, sorted by (uid, visit): the same bytes however the rows were split before.

    Memory: about `MERGE_BYTES_PER_ROW` for each row of the bucket.

    Raises:
        RunError: two rows of one uid and visit.
    """
    records = read_bucket(pieces, writer, schema)
    _refuse_repeated(records, join(writer.root, bucket_path(pieces.bucket)))
    return put_bucket(records, pieces.bucket, writer=writer, schema=schema)


def put_bucket(records: NDArray[np.void], bucket: int, *, writer: ArtifactWriter, schema: pa.Schema) -> MergedBucket:
    """Put sorted records as the file of a bucket; fields that are not in the schema are left out."""
    table = pa.table({name: np.ascontiguousarray(records[name]) for name in schema.names}, schema=schema)
    scored = len(run_starts(records["uid_hi"], records["uid_lo"]))
    visits = int(records["visit"].max()) + 1 if len(records) else 0
    return MergedBucket(writer.put_table(bucket_path(bucket), table), scored, visits)


def record_type(schema: pa.Schema) -> np.dtype[np.void]:
    """Packed record of a schema's columns."""
    return np.dtype([(field.name, field.type.to_pandas_dtype()) for field in schema])


def read_bucket(pieces: BucketPieces, writer: ArtifactWriter, schema: pa.Schema) -> NDArray[np.void]:
    """All records of one bucket, sorted by (uid, visit)."""
    kind = record_type(schema)
    records = np.empty(pieces.rows, kind)
    plain = records.view(f"V{kind.itemsize}")
    filled = 0
    for piece in pieces.pieces:
        data = writer.storage.read_range(piece.uri, piece.first * kind.itemsize, piece.num_rows * kind.itemsize)
        plain[filled : filled + piece.num_rows] = np.frombuffer(data, plain.dtype)
        filled += piece.num_rows
    hi, lo, visit = (np.ascontiguousarray(records[name]) for name in ("uid_hi", "uid_lo", "visit"))
    return take_records(records, uid_visit_order(hi, lo, visit))


def take_records(records: NDArray[np.void], rows: NDArray[np.int64]) -> NDArray[np.void]:
    """Records at these rows: numpy copies plain bytes several times as fast as records field by field."""
    return np.take(records.view(f"V{records.itemsize}"), rows).view(records.dtype)


def _records(table: pa.Table, order: NDArray[np.int64]) -> NDArray[np.void]:
    records = np.empty(table.num_rows, record_type(table.schema))
    for name in table.column_names:
        records[name] = table[name].to_numpy()
    return take_records(records, order)


def _refuse_repeated(records: NDArray[np.void], where: str) -> None:
    keys = records[["uid_hi", "uid_lo", "visit"]]
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if len(same) == 0:
        return
    row = records[same[0]]
    raise RunError(
        "a sample has two scores for one visit",
        where=f"{where}, uid {int(row['uid_hi']):016x}{int(row['uid_lo']):016x}, visit {row['visit']}",
        expected="one row",
        found=f"{len(same)} repeated rows in this bucket",
        next_step="this is a defect of the selector, not of the input: please report it with the run log",
    )
