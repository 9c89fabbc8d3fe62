"""Small pools and score tables, cut at uid-prefix buckets as the stages cut them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.kernels.scale import batch_scales, batch_sizes
from stages.kernels.uid import bucket_of
from tests.artifacts import commit


def random_uids(n, seed=0):
    """n distinct sorted uids: [n] high halves, [n] low halves."""
    rng = np.random.default_rng(seed)
    hi = np.sort(rng.integers(0, 2**64, n, dtype=np.uint64))
    return hi, rng.integers(0, 2**64, n, dtype=np.uint64)


def put_buckets(writer: ArtifactWriter, table: pa.Table, bits: int, folder: str = ""):
    """One file a bucket, from a table sorted by uid."""
    bucket = bucket_of(table["uid_hi"].to_numpy(), bits)
    prefix = f"{folder}/" if folder else ""
    return tuple(
        writer.put_table(f"{prefix}bucket-{b:05d}.parquet", table.filter(pa.array(bucket == b)))
        for b in range(1 << bits)
    )


def make_pool(
    root: Path, hi, lo, *, bits=0, metadata: Mapping[str, pa.Array] | None = None, missing: pa.Table | None = None
) -> Artifact:
    """A pool of n samples with further columns; `missing` are metadata rows without a sample."""
    n = len(hi)
    numbers = np.arange(n)
    columns = {
        "uid_hi": hi,
        "uid_lo": lo,
        "shard": (numbers // 100).astype(np.uint32),
        "offset": (numbers % 100 * 1024).astype(np.uint64),
        "length": np.full(n, 1024, np.uint64),
        "key": pa.array([f"{i:09d}" for i in numbers], pa.string()),
        "image_ext": pa.array(["jpg"] * n, pa.string()),
        "text_len": np.full(n, 20, np.uint32),
        "words": np.full(n, 4, np.uint32),
        "width": np.full(n, 64, np.uint32),
        "height": np.full(n, 64, np.uint32),
        "bytes": np.full(n, 900, np.uint64),
    }
    table = pa.table({**columns, **(metadata or {})})
    writer = ArtifactWriter(str(root), Storage())
    files = put_buckets(writer, table, bits, "index")
    if missing is not None:
        files += put_buckets(writer, missing, bits, "missing")
    types = {name: str(column.type) for name, column in (metadata or {}).items()}
    summary = {"samples": n, "usable": n, "bucket_bits": bits, "metadata_columns": types, "without_metadata": 0}
    return commit(root, "pool", StageResult(files, summary))


def make_scores(root: Path, hi, lo, score, *, bits=0, visit=None, step=None, weight=None) -> Artifact:
    """A score table; with `step` one of a training selector. Rows may come in any order."""
    n = len(hi)
    visit = np.zeros(n, np.uint16) if visit is None else np.asarray(visit, np.uint16)
    steps = np.full(n, -1, np.int32) if step is None else np.asarray(step, np.int32)
    columns = {"uid_hi": hi, "uid_lo": lo, "visit": visit, "step": steps, "score": np.asarray(score, np.float32)}
    if step is not None:
        columns["rank"], columns["z"] = batch_scales(steps, columns["score"])
        columns["batch"] = batch_sizes(steps)
        if weight is not None:
            columns["weight"] = np.asarray(weight, np.float32)
    order = np.lexsort((visit, lo, hi))
    table = pa.table({name: np.asarray(column)[order] for name, column in columns.items()})
    files = put_buckets(ArtifactWriter(str(root), Storage()), table, bits)
    summary = {
        "selector": root.name,
        "visits": int(visit.max(initial=0)) + 1,
        "rows": n,
        "scored": n,
        "bucket_bits": bits,
        "batched": step is not None,
    }
    return commit(root, f"scores/{root.name}", StageResult(files, summary))


def read_all(artifact: Artifact, prefix: str = "bucket-") -> pa.Table:
    """All buckets of a table, one after the other."""
    return pa.concat_tables(list(artifact.tables(prefix)))
