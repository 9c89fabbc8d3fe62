"""Generated tables as committed artifacts, which stages read as they read one another's."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.artifact import Artifact, ArtifactWriter, Counts, FileEntry, Manifest
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.kernels.buckets import bucket_path

_THREADS = min(4, os.cpu_count() or 1)


def commit(root: Path, name: str, result: StageResult) -> Artifact:
    """Put the manifest of what lies below `root`, as the runner does."""
    if result.counts is not None:
        result.counts.check(name)
    storage = Storage()
    manifest = Manifest(name, "0" * 64, {}, result.files, result.summary, result.counts)
    storage.put(f"{root}/manifest.json", manifest.to_json())
    return Artifact(str(root), Manifest.from_json(manifest.to_json(), str(root)), storage)


def put_all(make: Callable[[ArtifactWriter, int], FileEntry], root: Path, numbers: Iterable[int]) -> list[FileEntry]:
    """Make one file a number, a few at a time."""
    writer = ArtifactWriter(str(root), Storage())
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(lambda number: make(writer, number), numbers))


def put_buckets(root: Path, num_bits: int, make: Callable[[int], pa.Table], folder: str = "") -> list[FileEntry]:
    """One file a uid-prefix bucket."""

    def put(writer: ArtifactWriter, bucket: int) -> FileEntry:
        return writer.put_table(bucket_path(bucket, folder), make(bucket))

    return put_all(put, root, range(1 << num_bits))


def committed(root: Path, name: str, files: Iterable[FileEntry], summary: Mapping[str, Any], rows: int) -> Artifact:
    """The artifact of these files; all rows in are rows out."""
    return commit(root, name, StageResult(tuple(files), summary, Counts(rows, rows)))
