"""DataComp's basic filter as a score: 1 for what passes, 0 for what does not.

Its natural voter is `binarize.voters.<name>: {method: threshold, threshold: 0.5}`.
"""

import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.stage import External, ExternalFiles
from pipeline.storage import Storage, absolute, is_s3
from stages.formats.metadata_columns import TypeTest, is_label, is_number, is_text
from stages.kernels.basic_config import BasicBounds
from stages.selectors.base import Partition, Partitions, Scores, SelectorStage

if TYPE_CHECKING:
    import polars as pl


class BasicConfig(BasicBounds):
    """Language, caption length, image size and shape, by the pool's metadata; bounds as in DataComp."""

    kind: Literal["basic"]
    """Which method this is."""

    def roles(self) -> tuple[str, ...]:
        """What it is made from."""
        return ("pool",)


class BasicSelector(SelectorStage[BasicConfig]):
    """1 or 0 for each sample whose metadata is complete; the others have no score."""

    def metadata_types(self) -> Mapping[str, TypeTest]:
        """Caption, width and height, perhaps the language."""
        config = self.config
        types: dict[str, TypeTest] = {config.text: is_text, config.width: is_number, config.height: is_number}
        return types | ({config.language_column: is_label} if config.language_column else {})

    def external(self) -> Mapping[str, External]:
        """The metadata's header and the language model."""
        if self.config.model is None:
            return super().external()
        missing = "download a model such as lid.176.bin, or use another language test"
        return {**super().external(), "language": External(self.config.model, missing=missing)}

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """Check the metadata's columns and that a language model can be used."""
        super().preflight(external, storage)
        if self.config.model is not None and importlib.util.find_spec("fasttext_pybind") is None:
            raise UserError(
                "the language test needs fastText",
                where=f"selectors.{self.name}.language",
                next_step="pip install 'gradsieve[language]', or use `language: ascii_heuristic`",
            )

    def fit(self, partitions: Partitions) -> str | None:
        """Nothing of the pool; the language model's place, absolute, as tasks may run in another folder."""
        del partitions
        return None if self.config.model is None else absolute(self.config.model)

    def score(self, partition: Partition, state: Any) -> Scores:
        """Judge the rows whose metadata is complete."""
        import polars as pl  # here, so that naming this stage costs no more than its config

        wanted = list(self.metadata_types())
        frame = pl.DataFrame(partition.read(["uid_hi", "uid_lo", *wanted])).drop_nulls(wanted)
        passed = _passes(self.config, frame, state, partition.pool.storage)
        return Scores(frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy(), passed.astype(np.float32))


def _passes(config: BasicConfig, frame: "pl.DataFrame", model: str | None, storage: Storage) -> NDArray[np.bool_]:
    """[rows] whether each passes; the language model sees only what passed the cheap tests."""
    import polars as pl

    from stages.kernels.basic import large_enough, long_enough
    from stages.kernels.language import ascii_letters, equals, fasttext_languages

    text = pl.col(config.text)
    sides = pl.col(config.width), pl.col(config.height)
    test = large_enough(*sides, min_side=config.min_side, max_aspect=config.max_aspect)
    test &= long_enough(text, min_words=config.min_words, min_chars=config.min_chars)
    if config.language == "ascii_heuristic":
        test &= ascii_letters(text)
    elif config.language_column is not None:
        test &= pl.col(config.language_column) == config.wanted
    passed: NDArray[np.bool_] = frame.select(test.fill_null(False)).to_series().to_numpy().copy()
    if model is not None:
        captions = frame[config.text].filter(pl.Series(passed)).to_list()
        passed[passed] = equals(fasttext_languages(_local_copy(storage, model), captions), config.wanted)
    return passed


_fetched: dict[tuple[str, str], str] = {}


def _local_copy(storage: Storage, uri: str) -> str:
    """A path that fastText can open; an object is fetched once in a process."""
    if not is_s3(uri):
        return uri
    key = (uri, storage.stat(uri).version)
    if key not in _fetched:
        path = Path(tempfile.mkdtemp(prefix="language-model-")) / "model.bin"
        path.write_bytes(storage.read_bytes(uri))
        _fetched[key] = str(path)
    return _fetched[key]
