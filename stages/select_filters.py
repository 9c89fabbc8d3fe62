"""`basic` clauses, tested once: captions and language models are read in one pass, what passed is written down."""

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from pipeline.artifact import Artifact, ArtifactWriter, FileEntry
from pipeline.storage import Storage
from stages.formats.basic_filter import basic_passes
from stages.kernels.buckets import bucket_path
from stages.select_config import BasicClause, Path
from stages.select_frame import FILTERS, filter_column

_UID = ("uid_hi", "uid_lo")


def write_filters(
    clauses: Mapping[Path, BasicClause], pool: Artifact, storage: Storage, output: ArtifactWriter, bucket: int
) -> FileEntry:
    """Put one column a `basic` clause: which samples of the bucket pass it."""
    names = sorted({name for clause in clauses.values() for name in clause.columns})
    index = pool.read_table(bucket_path(bucket, "index"), [*_UID, *names])
    frame = pl.from_arrow(index.drop_columns(list(_UID)))
    assert isinstance(frame, pl.DataFrame)
    columns = {name: index[name] for name in _UID}
    for path, clause in clauses.items():
        columns[filter_column(path)] = pa.chunked_array([pa.array(basic_passes(clause, frame, storage))])
    return output.put_table(bucket_path(bucket, FILTERS), pa.table(columns))
