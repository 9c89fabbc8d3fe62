"""DataComp's basic filter as a score: 1 for what passes, 0 for what does not.

Its natural voter is `binarize.voters.<name>: {method: threshold, threshold: 0.5}`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from pipeline.stage import External, ExternalFiles
from pipeline.storage import Storage
from stages.formats.metadata_columns import TypeTest, is_label, is_number, is_text
from stages.kernels.basic_config import BasicBounds
from stages.selectors.base import Partition, Partitions, Scores, SelectorStage


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
        if self.config.model is not None:
            # Here and below, so that naming this stage costs no more than its config.
            from stages.formats.basic_filter import check_language_model

            check_language_model(storage, self.config.model, key=f"selectors.{self.name}.language")

    def fit(self, partitions: Partitions) -> BasicConfig:
        """Nothing of the pool; the bounds with the language model's place absolute, as tasks run in other folders."""
        del partitions
        return self.config.absolute()

    def score(self, partition: Partition, state: Any) -> Scores:
        """Judge the rows whose metadata is complete."""
        import polars as pl

        from stages.formats.basic_filter import basic_passes

        wanted = list(self.metadata_types())
        frame = pl.DataFrame(partition.read(["uid_hi", "uid_lo", *wanted])).drop_nulls(wanted)
        passed = basic_passes(state, frame, partition.pool.storage)
        return Scores(frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy(), passed.astype(np.float32))
