"""The pool's metadata in DataComp's columns, cut into files that do not follow the shards."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import parquet_bytes
from stages.pool.demo.sample import Sample

_ROWS_PER_FILE = 2048


def write_metadata(
    folder: Path,
    samples: Sequence[Sample],
    sha256: Sequence[str],
    scores: Mapping[str, NDArray[np.float64]],
    rng: np.random.Generator,
) -> None:
    """Write `<32 hex>.parquet` files.

    Args:
        folder: of the metadata.
        samples: all that were crawled, those whose later download failed included.
        sha256: of each picture as first downloaded.
        scores: by scorer, the cosine of each picture and caption.
        rng: orders the rows and names the files.
    """
    table = pa.table(
        {
            "uid": [sample.uid for sample in samples],
            "url": [sample.url for sample in samples],
            "text": [sample.caption for sample in samples],
            "original_width": pa.array([sample.original_width for sample in samples], pa.int64()),
            "original_height": pa.array([sample.original_height for sample in samples], pa.int64()),
            "sha256": list(sha256),
            **{f"clip_{name}_similarity_score": pa.array(values, pa.float64()) for name, values in scores.items()},
            "face_bboxes": pa.array([[] for _ in samples], pa.list_(pa.list_(pa.float64()))),
        }
    )
    once = np.unique(table["uid"].to_numpy(), return_index=True)[1]  # a duplicated uid has one row, its first
    order = rng.permutation(np.sort(once))
    for start in range(0, len(order), _ROWS_PER_FILE):
        rows = table.take(order[start : start + _ROWS_PER_FILE])
        (folder / f"{rng.bytes(16).hex()}.parquet").write_bytes(parquet_bytes(rows))
