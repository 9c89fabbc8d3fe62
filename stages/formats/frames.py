"""Tables of an artifact as one lazy Polars frame; bytes come through storage, never from Polars itself."""

from collections.abc import Iterator
from functools import partial

import polars as pl
from polars.io.plugins import register_io_source

from pipeline.artifact import Artifact


def open_frame(artifact: Artifact, prefix: str = "bucket-") -> pl.LazyFrame:
    """Listed Parquet files below a prefix as one frame, in the order of their names.

    Nothing but the first file's columns is read until the frame is collected, and then only the columns that the
    query needs, file by file.
    """
    paths = [file.path for file in artifact.files(prefix, ".parquet")]
    first = artifact.read_table(paths[0]).schema.empty_table()
    frame = pl.from_arrow(first)
    assert isinstance(frame, pl.DataFrame)
    return register_io_source(partial(_frames, artifact, paths), schema=frame.schema)


def _frames(
    artifact: Artifact,
    paths: list[str],
    columns: list[str] | None,
    predicate: pl.Expr | None,
    num_rows: int | None,
    batch_rows: int | None,
) -> Iterator[pl.DataFrame]:
    """One frame a file, cut to what the query wants."""
    del batch_rows  # a hint; a file is a batch
    left = num_rows
    for path in paths:
        if left == 0:
            return
        frame = pl.from_arrow(artifact.read_table(path, columns))
        assert isinstance(frame, pl.DataFrame)
        if left is not None:
            frame = frame.head(left)
            left -= frame.height
        yield frame if predicate is None else frame.filter(predicate)
