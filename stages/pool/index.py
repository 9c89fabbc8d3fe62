"""Pass B: one uid bucket of the index, from the sorted runs of samples and metadata."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import ArtifactWriter, FileEntry
from pipeline.schema import UID
from pipeline.storage import Storage
from stages.kernels.buckets import bucket_path
from stages.kernels.uid import positions, to_hex
from stages.pool.metadata import refuse_repeated, run_schema
from stages.pool.quarantine import QUARANTINE
from stages.pool.runs import Run, read_bucket, sort_by_uid
from stages.pool.scan import POOL_SCHEMA


@dataclass(frozen=True)
class Runs:
    """All that a bucket is made from; the same for every bucket."""

    samples: tuple[Run, ...]
    metadata: tuple[Run, ...]
    columns: pa.Schema
    """Metadata columns of the index."""
    metadata_files: tuple[str, ...]
    """URIs of the metadata by number, for messages."""
    bits: int
    report_missing: bool
    """False where shards were left out, so that a row without a sample says nothing."""


@dataclass(frozen=True)
class BucketItem:
    """One bucket, and the uids in it that belong to broken samples."""

    bucket: int
    broken_hi: NDArray[np.uint64]
    broken_lo: NDArray[np.uint64]


@dataclass(frozen=True)
class BucketResult:
    """What a bucket's task made and found."""

    index: FileEntry
    missing: FileEntry
    num_missing: int
    """Metadata rows without a sample, broken ones included."""
    num_missing_broken: int
    """Of these, rows whose sample is in quarantine."""
    num_without_metadata: int
    """Samples without a metadata row."""
    duplicates: pa.Table
    """QUARANTINE rows of samples whose uid an earlier one has."""


def index_bucket(item: BucketItem, *, runs: Runs, storage: Storage, writer: ArtifactWriter) -> BucketResult:
    """Merge, resolve duplicates, join.

    Raises:
        UserError: several metadata rows have one uid.
    """
    merged = read_bucket(storage, runs.samples, item.bucket, runs.bits, POOL_SCHEMA)
    merged = sort_by_uid(merged, "shard", "offset")
    repeats = _repeats(merged)
    samples = merged.filter(pa.array(~repeats))
    columns = run_schema(runs.columns)
    metadata = read_bucket(storage, runs.metadata, item.bucket, runs.bits, columns)
    metadata = sort_by_uid(metadata)
    files = dict(enumerate(runs.metadata_files))
    refuse_repeated(metadata, np.flatnonzero(_repeats(metadata)).tolist(), files)
    row = positions(*_halves(metadata), *_halves(samples))
    unmatched = row < 0
    joined = _joined(samples, metadata, row, unmatched, runs.columns)
    missing = _missing(metadata, row[~unmatched], runs)
    is_broken = positions(*_halves(missing), item.broken_hi, item.broken_lo)
    return BucketResult(
        writer.put_table(bucket_path(item.bucket, "index"), joined),
        writer.put_table(bucket_path(item.bucket, "missing"), missing),
        missing.num_rows,
        len(np.unique(is_broken[is_broken >= 0])),
        int(unmatched.sum()) if runs.metadata else 0,
        _duplicates(merged, repeats),
    )


def _joined(
    samples: pa.Table,
    metadata: pa.Table,
    row: NDArray[np.int64],
    unmatched: NDArray[np.bool_],
    columns: pa.Schema,
) -> pa.Table:
    take = pa.array(row, mask=unmatched)
    for field in columns:
        samples = samples.append_column(field, metadata[field.name].take(take))
    return samples


def _missing(metadata: pa.Table, matched: NDArray[np.int64], runs: Runs) -> pa.Table:
    without = np.full(metadata.num_rows, runs.report_missing)
    without[matched] = False
    return metadata.filter(pa.array(without)).select([*UID, *runs.columns.names])


def _duplicates(merged: pa.Table, repeats: NDArray[np.bool_]) -> pa.Table:
    rows = merged.filter(pa.array(repeats))
    first = np.flatnonzero(~repeats)[np.cumsum(~repeats)[repeats] - 1]  # row that stays, for each that goes
    stays = merged.take(pa.array(first))
    detail = [
        f"shard {shard} has it first, at offset {offset}"
        for shard, offset in zip(stays["shard"].to_pylist(), stays["offset"].to_pylist(), strict=True)
    ]
    columns: Mapping[str, pa.Array | pa.ChunkedArray] = {
        "shard": rows["shard"],
        "offset": rows["offset"],
        "member": rows["key"],
        "uid": to_hex(*_halves(rows)),
        "reason": pa.array(["duplicate_uid"] * rows.num_rows, pa.string()),
        "detail": pa.array(detail, pa.string()),
    }
    return pa.table({name: columns[name] for name in QUARANTINE.names}, QUARANTINE)


def _repeats(table: pa.Table) -> NDArray[np.bool_]:
    """[n] whether a row has the uid of the row before, in a table sorted by uid."""
    hi, lo = _halves(table)
    repeats = np.zeros(len(hi), np.bool_)
    repeats[1:] = (hi[1:] == hi[:-1]) & (lo[1:] == lo[:-1])
    return repeats


def _halves(table: pa.Table) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy()
