"""All that a rank needs to know, as one picklable value."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from pipeline.artifact import Artifact, ArtifactWriter
from stages.train.config import TrainConfig
from stages.train.loader import LoaderSpec
from stages.train.notice import Notice

WEIGHTS, OPTIMIZER, HISTORY, MODEL_CONFIG = "weights", "optimizer", "history", "config"
"""Names of the files in a checkpoint; one that nobody planned also holds each rank's `uncut_name`."""


def uncut_name(rank: int) -> str:
    """Of the file with what a rank scored since its ledger was last cut."""
    return f"uncut-{rank:05d}"


@dataclass(frozen=True)
class TrainSpec:
    """One training."""

    config: TrainConfig
    seed: int
    loader: LoaderSpec
    output: ArtifactWriter
    name: str
    """Of the artifact, for messages."""
    init: Artifact | None = None
    """Where the student starts; random weights without."""
    reference: Artifact | None = None
    """The weights to mimic; nothing is scored without."""
    on_uninformative: Literal["stop", "warn"] = "stop"


class Standing(NamedTuple):
    """How far training is."""

    samples: int
    total: int
    loss: float
    effective_share: float
    wait_share: float = 0.0
    """Of rank 0's time, since it started, that it spent waiting for data."""


class Progress(Protocol):
    """Where rank 0 says how far training is and what must not be missed, and hears that it must end."""

    def stand(self, standing: Standing) -> None:
        """Show how far it is; cheap, may be called each step."""

    def warn(self, text: str) -> None:
        """Say something once."""

    def committed(self, step: int, loss: float) -> None:
        """A checkpoint exists; called in every rank."""

    def notice(self) -> Notice:
        """Whether ranks will be stopped soon; called in every rank after the same steps, rank 0's answer counts."""
