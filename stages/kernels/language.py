"""Whether a caption is in the wanted language: fastText's low-level binding, or an explicit heuristic."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

_LABEL = "__label__"
_LINES = 1 << 16
_MIN_LETTERS = 0.5
_MAX_FOREIGN = 0.1


def fasttext_languages(model_path: str, texts: Sequence[str]) -> list[str | None]:
    """Best label of each text by a fastText model, without its prefix; None where the model says nothing.

    The high-level `predict` of the package breaks with NumPy 2; the binding below it does the same. A text is one
    line: newlines become spaces, as DataComp does it.

    Args:
        model_path: local file.
        texts: n captions.
    """
    model = _load(model_path)
    found: list[str | None] = []
    for start in range(0, len(texts), _LINES):
        lines = [text.replace("\n", " ") + "\n" for text in texts[start : start + _LINES]]
        labels, _ = model.multilinePredict(lines, 1, 0.0, "strict")
        found += [best[0].removeprefix(_LABEL) if best else None for best in labels]
    return found


def ascii_letters(text: pl.Expr) -> pl.Expr:
    """Mostly ASCII letters: at least half of the code points are A-Z or a-z, at most a tenth is not ASCII.

    A stand-in where no language model is at hand: it tells scripts apart, not languages of one script.
    """
    length = text.str.len_chars()
    letters = text.str.count_matches(r"[A-Za-z]")
    foreign = text.str.count_matches(r"[^\x00-\x7F]")
    return (letters >= _MIN_LETTERS * length) & (foreign <= _MAX_FOREIGN * length) & (letters > 0)


def equals(languages: Sequence[str | None], wanted: str) -> NDArray[np.bool_]:
    """Which labels are the wanted one: [n]."""
    return pl.Series(languages, dtype=pl.String).eq(wanted).fill_null(False).to_numpy()


@lru_cache(maxsize=1)
def _load(model_path: str) -> Any:
    from fasttext_pybind import fasttext  # an optional dependency

    model = fasttext()
    model.loadModel(model_path)
    return model
