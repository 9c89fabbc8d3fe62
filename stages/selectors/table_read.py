"""Row groups of a foreign Parquet table as checked records, and their meeting with the pool's uids."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.formats.metadata_columns import is_number, is_text
from stages.formats.score_parts import (
    BucketPieces,
    MergedBucket,
    SplitPart,
    put_bucket,
    read_bucket,
    split_by_bucket,
    take_records,
)
from stages.kernels.buckets import bucket_path
from stages.kernels.uid import parse_hex, positions
from stages.selectors.base import NO_STEP, SINGLE_VISIT, TABLE

_WRITE_AGAIN = "write or download this file again"
_TRACED = pa.schema([*TABLE, ("file", pa.uint32()), ("row", pa.uint64())])
"""Scores that remember where they come from, so that a repetition can be shown."""


class Columns(NamedTuple):
    """Where uid and score stand in the table."""

    uid: tuple[str, ...]
    score: str
    selector: str
    """Name of the selector, for messages."""


class Piece(NamedTuple):
    """A row group of one of the table's files."""

    uri: str
    file: int
    """Number of the file."""
    group: int
    first: int
    """Row of the file."""
    rows: int


class TableBucket(NamedTuple):
    """A finished bucket, and how many rows were of no sample of the pool."""

    merged: MergedBucket
    outside: int


def pieces_of(storage: Storage, uris: Sequence[str]) -> list[Piece]:
    """All row groups of all files."""
    pieces = []
    for number, uri in enumerate(uris):
        with storage.open(uri) as source:
            metadata = _open(source, uri).metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        firsts = np.cumsum(rows) - rows if rows else []
        pieces += [Piece(uri, number, group, int(firsts[group]), count) for group, count in enumerate(rows) if count]
    return pieces


def check_header(storage: Storage, uri: str, columns: Columns) -> None:
    """Refuse a file without the columns, or with columns of another kind.

    Raises:
        UserError: naming file, column, expected and found.
    """
    with storage.open(uri) as source:
        schema = _open(source, uri).schema_arrow
    next_step = f"set selectors.{columns.selector}.uid and .score to columns of the table"
    missing = [name for name in (*columns.uid, columns.score) if name not in schema.names]
    if missing:
        expected = f"column(s) {', '.join(missing)}"
        raise UserError(
            "a score table lacks columns",
            where=uri,
            expected=expected,
            found=f"columns {', '.join(schema.names)}",
            next_step=next_step,
        )
    repeated = [name for name in (*columns.uid, columns.score) if schema.names.count(name) > 1]
    if repeated:
        raise UserError(
            "a score table has two columns of one name",
            where=uri,
            expected=f"column(s) {', '.join(repeated)} once",
            found=f"columns {', '.join(schema.names)}",
            next_step="rename one of them, or leave it out",
        )
    kinds = {name: schema.field(name).type for name in (*columns.uid, columns.score)}
    wanted = {columns.score: (is_number, "a number")}
    if len(columns.uid) == 1:
        wanted[columns.uid[0]] = (is_text, "hexadecimal text")
    else:
        wanted |= dict.fromkeys(columns.uid, (pt.is_uint64, "uint64"))
    for name, (test, said) in wanted.items():
        if not test(kinds[name]):
            where = f"{uri}, column {name}"
            raise UserError(
                "a score table has a column of another kind",
                where=where,
                expected=said,
                found=kinds[name],
                next_step=next_step,
            )


def check_values(piece: Piece, *, storage: Storage, columns: Columns) -> None:
    """Refuse uids and scores that cannot be used.

    Raises:
        UserError: naming file, row, expected and found.
    """
    _read(piece, storage, columns)


def split_piece(piece: Piece, *, storage: Storage, columns: Columns, writer: ArtifactWriter, bits: int) -> SplitPart:
    """One row group, checked, as a split part."""
    uid_hi, uid_lo, score = _read(piece, storage, columns)
    values = {
        "uid_hi": uid_hi,
        "uid_lo": uid_lo,
        "visit": np.full(piece.rows, SINGLE_VISIT, np.uint16),
        "step": np.full(piece.rows, NO_STEP, np.int32),
        "score": score,
        "file": np.full(piece.rows, piece.file, np.uint32),
        "row": piece.first + np.arange(piece.rows, dtype=np.uint64),
    }
    table = pa.table({name: values[name] for name in _TRACED.names}, schema=_TRACED)
    return split_by_bucket(table, writer, f"{piece.file:05d}-{piece.group:05d}", bits)


def merge_rows(pieces: BucketPieces, *, pool: Artifact, writer: ArtifactWriter, uris: tuple[str, ...]) -> TableBucket:
    """Put the bucket's scores of samples that the pool has.

    Raises:
        UserError: a uid stands in the table twice.
    """
    records = read_bucket(pieces, writer, _TRACED)
    same = (records["uid_hi"][1:] == records["uid_hi"][:-1]) & (records["uid_lo"][1:] == records["uid_lo"][:-1])
    if same.any():
        one, other = sorted((int(record["file"]), int(record["row"])) for record in records[int(np.argmax(same)) :][:2])
        uid = f"{int(records['uid_hi'][np.argmax(same)]):016x}{int(records['uid_lo'][np.argmax(same)]):016x}"
        raise UserError(
            "a score table has a uid twice",
            where=f"{uris[other[0]]}, row {other[1]}",
            expected="one row a sample",
            found=f"uid {uid}, which stands in {uris[one[0]]}, row {one[1]} already",
            next_step="keep one row of each uid",
        )
    index = pool.read_table(bucket_path(pieces.bucket, "index"), ["uid_hi", "uid_lo"])
    uid_hi, uid_lo = (np.ascontiguousarray(records[name]) for name in ("uid_hi", "uid_lo"))
    inside = positions(index["uid_hi"].to_numpy(), index["uid_lo"].to_numpy(), uid_hi, uid_lo) >= 0
    merged = put_bucket(take_records(records, np.flatnonzero(inside)), pieces.bucket, writer=writer, schema=TABLE)
    return TableBucket(merged, int((~inside).sum()))


def _read(
    piece: Piece, storage: Storage, columns: Columns
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.float32]]:
    """Checked uid halves and scores of a row group."""
    with storage.open(piece.uri) as source:
        file = _open(source, piece.uri)
        try:
            table = file.read_row_group(piece.group, columns=[*columns.uid, columns.score])
            table.validate(full=True)  # text that is not UTF-8 would bring Polars down
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                "a score table cannot be read",
                where=f"{piece.uri}, row group {piece.group}, from row {piece.first}",
                expected="whole pages of Parquet",
                found=str(error).strip(),
                next_step=_WRITE_AGAIN,
            ) from error
    for name in (*columns.uid, columns.score):
        if table[name].null_count:
            row = int(np.argmax(table[name].is_null().to_numpy()))
            raise _bad_value(piece, row, name, "a value", "null")
    with np.errstate(over="ignore"):
        score = table[columns.score].to_numpy().astype(np.float32)
    finite = np.isfinite(score)
    if not finite.all():
        row = int(np.argmin(finite))
        raise _bad_value(piece, row, columns.score, "a finite float32", table[columns.score][row].as_py())
    if len(columns.uid) == 2:
        return table[columns.uid[0]].to_numpy(), table[columns.uid[1]].to_numpy(), score
    return *_parse(piece, table[columns.uid[0]], columns.uid[0]), score


def _parse(piece: Piece, uids: pa.ChunkedArray, name: str) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    text = uids.combine_chunks() if uids.num_chunks != 1 else uids.chunk(0)
    try:
        parsed = parse_hex(text.cast(pa.string()))
    except ValueError:
        good = pc.match_substring_regex(text.cast(pa.string()), "^[0-9a-fA-F]{1,32}$").to_numpy(zero_copy_only=False)
        row = int(np.argmin(good))
        raise _bad_value(piece, row, name, "1 to 32 hexadecimal digits", repr(text[row].as_py())) from None
    return parsed.hi, parsed.lo


def _bad_value(piece: Piece, row: int, column: str, expected: str, found: object) -> UserError:
    return UserError(
        "a score table has a value that cannot be used",
        where=f"{piece.uri}, row {piece.first + row}, column {column}",
        expected=expected,
        found=found,
        next_step="correct the table, or leave such rows out: a sample without a row has no score",
    )


def _open(source: object, uri: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            "not a Parquet file", where=uri, expected="a Parquet table", found=error, next_step=_WRITE_AGAIN
        ) from error
