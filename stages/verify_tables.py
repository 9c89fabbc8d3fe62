"""Whether tables keyed by uid hold just the samples that they speak of, counted from their rows alone."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import Artifact
from pipeline.schema import ORDER
from stages.formats.npy import SubsetFile
from stages.kernels.uid import bucket_of, is_sorted, positions, run_starts

Found = tuple[str, str, str]
"""Artifact, what is wrong, where."""

_UID = ["uid_hi", "uid_lo"]
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def rows(name: str, artifact: Artifact) -> Iterator[Found]:
    """Each table has as many rows as its manifest lists, and those of a stage's result as many as it counted out."""
    for file in artifact.files():
        uri = artifact.uri(file.path)
        if file.path.endswith(".parquet"):
            with artifact.storage.open(uri) as source:
                found = pq.ParquetFile(source).metadata.num_rows
        elif file.path.endswith(".npy"):
            found = SubsetFile.open(artifact.storage, uri).num_records
        else:
            continue
        if found != file.rows:
            yield name, f"the file has {found} rows; its manifest lists {file.rows}", uri
    tables = artifact.files("bucket-", ".parquet")
    counts = artifact.manifest.counts
    if tables and counts is not None and counts.out != sum(file.rows for file in tables):
        yield (
            name,
            f"the stage counted {counts.out} out, and has {sum(file.rows for file in tables)} rows",
            artifact.root,
        )


def index(pool: Artifact) -> Iterator[Found]:
    """Distinct uids in order, each in its bucket; the table in the order of shards speaks of the same samples."""
    total = 0
    for bucket, file in enumerate(pool.files("index/", ".parquet")):
        table = pool.read_table(file.path, list(ORDER.columns))
        hi, lo = _halves(table)
        if not is_sorted(hi, lo) or len(run_starts(hi, lo)) != len(hi):
            yield "pool", "uids are not distinct and in order", pool.uri(file.path)
        if (bucket_of(hi, pool.summary["bucket_bits"]) != bucket).any():
            yield "pool", "a uid is in the bucket of another prefix", pool.uri(file.path)
        total += _checksum(table)
    for file in pool.files("order/", ".parquet"):
        total -= _checksum(pool.read_table(file.path, list(ORDER.columns)))
    if total % (1 << 64):
        yield "pool", "index and order do not speak of the same places of the same samples", pool.root


def _checksum(table: pa.Table) -> int:
    """Of all rows, whatever their order; modulo 2^64."""
    mixed = np.zeros(table.num_rows, np.uint64)
    for column in ORDER.columns:
        mixed = (mixed ^ table[column].to_numpy().astype(np.uint64)) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return int(mixed.sum(dtype=np.uint64))


def whole_pool(name: str, artifact: Artifact, pool: Artifact) -> Iterator[Found]:
    """Each sample of the pool's index has one row, in the order of uids."""
    for file in pool.files("index/", ".parquet"):
        path = file.path.removeprefix("index/")
        index, table = pool.read_table(file.path, _UID), artifact.read_table(path, _UID)
        if not index.equals(table):
            yield name, f"the rows are not those of the pool's {file.path}, one each", artifact.uri(path)


def scores(name: str, artifact: Artifact, pool: Artifact) -> Iterator[Found]:
    """Every score is finite and of a sample of the pool, one a visit, in the order of uids."""
    visited = 0
    for file in pool.files("index/", ".parquet"):
        path = file.path.removeprefix("index/")
        where = artifact.uri(path)
        index, table = pool.read_table(file.path, _UID), artifact.read_table(path, [*_UID, "visit", "score"])
        (known_hi, known_lo), (hi, lo) = _halves(index), _halves(table)
        visit = table["visit"].to_numpy()
        if not is_sorted(hi, lo):
            yield name, "rows are not in the order of uids", where
            continue
        same = (hi[1:] == hi[:-1]) & (lo[1:] == lo[:-1])
        visited += len(hi) - int(same.sum())
        if (visit[1:][same] <= visit[:-1][same]).any():
            yield name, "a sample has two scores for one visit", where
        strange = positions(known_hi, known_lo, hi, lo) < 0
        if strange.any():
            yield name, f"{int(strange.sum())} scores are of samples that the pool does not have", where
        if not np.isfinite(table["score"].to_numpy()).all():
            yield name, "a score is not a finite number", where
    if visited != artifact.summary["scored"]:
        stated = artifact.summary["scored"]
        yield name, f"the summary counts {stated} scored samples, the table {visited}", artifact.root


def _halves(table: pa.Table) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], ...]:
    return tuple(table[column].to_numpy() for column in _UID)
