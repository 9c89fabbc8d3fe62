"""`basic` clauses, tested once: captions and language models are read in one pass, what passed is written down.

A row a sample, in the order of the index's bucket; uids are not repeated.
"""

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from pipeline.artifact import Artifact, ArtifactWriter, FileEntry
from pipeline.storage import Storage
from stages.formats.basic_filter import basic_passes
from stages.kernels.buckets import bucket_path
from stages.select_config import BasicClause, Path
from stages.select_frame import FILTERS, filter_column


def write_filters(
    clauses: Mapping[Path, BasicClause], pool: Artifact, storage: Storage, output: ArtifactWriter, bucket: int
) -> FileEntry:
    """Put one column a `basic` clause: which samples of the bucket pass it."""
    names = sorted({name for clause in clauses.values() for name in clause.columns})
    frame = pl.from_arrow(pool.read_table(bucket_path(bucket, "index"), names))
    assert isinstance(frame, pl.DataFrame)
    passed = {filter_column(path): basic_passes(clause, frame, storage) for path, clause in clauses.items()}
    return output.put_table(bucket_path(bucket, FILTERS), pa.table(passed))
