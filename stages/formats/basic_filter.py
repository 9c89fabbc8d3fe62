"""DataComp's basic filter over rows of metadata; a language model is read where the rows are."""

import importlib.util
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.storage import Storage, absolute, is_s3
from stages.kernels.basic import large_enough, long_enough
from stages.kernels.basic_config import BasicBounds
from stages.kernels.language import ascii_letters, equals, fasttext_languages

_BINDING = "fasttext_pybind"
_MAGIC = (793712314).to_bytes(4, "little")
"""How every fastText model begins."""


def basic_passes(bounds: BasicBounds, rows: pl.DataFrame, storage: Storage) -> NDArray[np.bool_]:
    """Which rows pass: [n]; a row without caption, size or language does not.

    Args:
        bounds: the filter; `bounds.absolute()` where the rows may lie in another folder than the configuration.
        rows: with the metadata columns that the bounds name.
        storage: reads the language model.
    """
    text = pl.col(bounds.text)
    sides = pl.col(bounds.width), pl.col(bounds.height)
    cheap = large_enough(*sides, min_side=bounds.min_side, max_aspect=bounds.max_aspect)
    cheap &= long_enough(text, min_words=bounds.min_words, min_chars=bounds.min_chars)
    if bounds.language == "ascii_heuristic":
        cheap &= ascii_letters(text)
    elif bounds.language_column is not None:
        cheap &= pl.col(bounds.language_column) == bounds.wanted
    passed: NDArray[np.bool_] = rows.select(cheap.fill_null(False)).to_series().to_numpy().copy()
    if bounds.model is not None:  # sees only what passed the cheap tests
        texts = rows[bounds.text].filter(pl.Series(passed)).to_list()
        passed[passed] = equals(fasttext_languages(local_model(storage, bounds.model), texts), bounds.wanted)
    return passed


def check_language_model(storage: Storage, uri: str, *, key: str) -> None:
    """Refuse, before any work, what no language can be told with.

    Args:
        storage: reads the model's first bytes.
        uri: of the model.
        key: of the configuration, for messages.

    Raises:
        UserError: fastText is not installed, or the file is no model of it.
    """
    if importlib.util.find_spec(_BINDING) is None:
        raise UserError(
            "the language test needs fastText",
            where=key,
            expected="the package fasttext-wheel",
            found="not installed",
            next_step="pip install 'gradsieve[language]', or use `language: ascii_heuristic`",
        )
    model = absolute(uri)
    head = storage.read_range(model, 0, min(len(_MAGIC), storage.stat(model).bytes))
    if head != _MAGIC:
        raise UserError(
            "not a fastText model",
            where=model,
            expected="a model such as lid.176.bin",
            found=f"a file that begins {head!r}" if head else "an empty file",
            next_step=f"download it again, or use another {key}",
        )


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
    local = Path(tempfile.mkdtemp(prefix="language-model-")) / "model.bin"
    local.write_bytes(reader.storage.read_bytes(uri))
    return str(local)
