"""Where the weights to mimic come from, and how good they must be."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config_base import Config, placement
from stages.models.recipe_config import RecipeConfig
from stages.train.config import MimicConfig, TrainConfig

TRAIN = "train"
"""`reference.source` when the reference is trained here."""


class PhaseConfig(RecipeConfig):
    """What a phase of training does otherwise than the `train` block; all else is inherited from there."""

    @model_validator(mode="after")
    def _one_length(self) -> "PhaseConfig":
        if (self.epochs is None) == (self.samples_seen is None):
            raise ValueError("give exactly one of `epochs` and `samples_seen`")
        return self


class ReferenceConfig(Config):
    """The reference: better weights of the same architecture, and how they relate to the student's."""

    source: str = TRAIN
    """`train`, a tag of open_clip, `hf-hub:<organisation>/<model>`, or a file (local or s3://)."""
    base: PhaseConfig | None = None
    """Uniform training on the pool as it is, where the student starts; without it, at random weights."""
    tune: PhaseConfig | None = None
    """Training on the trusted subset that makes the reference (from `base` if there is one)."""
    trusted: str | None = placement(None)
    """Subset file (.npy) of verified samples of the pool, for `tune`."""
    on_uninformative: Literal["stop", "warn"] = "stop"
    """What to do when scores do not foretell which samples the reference does better on."""
    check_samples: int = Field(1024, ge=2)
    """Samples of the check, rounded up to whole batches."""

    @model_validator(mode="after")
    def _lineage(self) -> "ReferenceConfig":
        if self.source == TRAIN and (self.tune is None or self.trusted is None):
            raise ValueError("`source: train` needs `tune` and `trusted`: what makes the reference better")
        if self.source != TRAIN and (self.tune is not None or self.trusted is not None):
            raise ValueError("`tune` and `trusted` have no effect unless `source: train`")
        return self


class PlacedReferenceConfig(ReferenceConfig):
    """A reference together with the training that will mimic it: what the reference check depends on."""

    train: TrainConfig
    """Model, mimicked parameters and batches of the check."""


def placed_reference(reference: ReferenceConfig, train: TrainConfig) -> PlacedReferenceConfig:
    """Both as one config, so that a change of either makes the check anew."""
    values = {name: getattr(reference, name) for name in type(reference).model_fields}
    return PlacedReferenceConfig(**values, train=train)


def phase_train_config(train: TrainConfig, phase: Config) -> TrainConfig:
    """The training of a phase: the `train` block with what the phase says otherwise, weights all alike.

    Args:
        train: the block to inherit from.
        phase: a `PhaseConfig`, or any config whose fields are a part of `TrainConfig`'s.

    Raises:
        ValueError: the combination is not valid.
    """
    said = {name: value for name, value in phase if name in TrainConfig.model_fields and value is not None}
    length = {"epochs": None, "samples_seen": None} if {"epochs", "samples_seen"} & set(said) else {}
    values = {name: getattr(train, name) for name in type(train).model_fields}
    unscored = {"method": "uniform", "temperature": 0.05, "mimic": MimicConfig()}  # so that these retrain nothing
    return TrainConfig(**{**values, **length, **said, **unscored})
