"""`basic` clauses, tested once: captions and language models are read in one pass, what passed is written down."""

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as LocalPath

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter, FileEntry
from pipeline.storage import Storage, absolute, is_s3
from stages.kernels.basic import large_enough, long_enough
from stages.kernels.buckets import bucket_path
from stages.kernels.language import ascii_letters, equals, fasttext_languages
from stages.select_config import BasicClause, SelectConfig
from stages.select_frame import FILTERS, filter_column

_UID = ("uid_hi", "uid_lo")


def write_filters(
    config: SelectConfig, pool: Artifact, storage: Storage, output: ArtifactWriter, bucket: int
) -> FileEntry:
    """Put one column a `basic` clause: which samples of the bucket pass it."""
    index = pool.read_table(bucket_path(bucket, "index"), [*_UID, *config.basic_columns()])
    frame = pl.from_arrow(index.drop_columns(list(_UID)))
    assert isinstance(frame, pl.DataFrame)
    columns = {name: index[name] for name in _UID}
    for path, clause in config.basics().items():
        columns[filter_column(path)] = pa.chunked_array([pa.array(basic_passes(clause, frame, storage))])
    return output.put_table(bucket_path(bucket, FILTERS), pa.table(columns))


def basic_passes(clause: BasicClause, frame: pl.DataFrame, storage: Storage) -> NDArray[np.bool_]:
    """Which rows pass the filter: [n]; a row without caption, size or language does not."""
    text = pl.col(clause.text)
    shape = large_enough(
        pl.col(clause.width), pl.col(clause.height), min_side=clause.min_side, max_aspect=clause.max_aspect
    )
    cheap = shape & long_enough(text, min_words=clause.min_words, min_chars=clause.min_chars)
    if clause.language == "ascii_heuristic":
        cheap &= ascii_letters(text)
    elif clause.language_column is not None:
        cheap &= pl.col(clause.language_column) == clause.wanted
    passed = frame.select(cheap.fill_null(False)).to_series().to_numpy().copy()
    if clause.model is not None:
        # The model sees only what passed the cheap tests.
        texts = frame[clause.text].filter(pl.Series(passed)).to_list()
        model = local_model(storage, clause.model)
        passed[passed] = equals(fasttext_languages(model, texts), clause.wanted)
    return passed


def local_model(storage: Storage, uri: str) -> str:
    """Path of a language model on this node; one in an object store is fetched once a process."""
    if not is_s3(uri):
        return absolute(uri)
    return _fetched(uri, storage.stat(uri).version, _Reader(storage))


@dataclass(frozen=True, eq=False)
class _Reader:
    """A storage handle that takes no part in what a cache compares."""

    storage: Storage

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reader)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=4)
def _fetched(uri: str, version: str, reader: _Reader) -> str:
    del version  # part of the key: another version is another file
    folder = LocalPath(tempfile.mkdtemp(prefix="language-model-"))
    local = folder / "model.bin"
    local.write_bytes(reader.storage.read_bytes(uri))
    return str(local)
