"""On what models are evaluated, and whether the filter is proved by training on what it kept."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config_base import Config, placement
from stages.models.recipe_config import RecipeConfig


class RetrainConfig(RecipeConfig):
    """What training on the subsets does otherwise than the `train` block; it starts from random weights."""

    @model_validator(mode="after")
    def _one_length(self) -> "RetrainConfig":
        if self.epochs is not None and self.samples_seen is not None:
            raise ValueError("give `epochs` or `samples_seen`, not both")
        return self


class EvaluateConfig(Config):
    """Zero-shot accuracy and retrieval of the trained models."""

    data: str = placement()
    """Folder of data sets in CLIP_benchmark's webdataset layout (`wds_<task>_test/`); local or s3://."""
    every: Literal["epoch", "end"] = "epoch"
    """Evaluate the model after each epoch too, or the final ones alone."""
    batch_size: int = Field(256, ge=1)
    """Images or captions encoded at once."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models run; part of what the figures are, as the last digits of features differ."""
    threads: int = Field(1, ge=1)
    """Threads a model on the CPU; part of what the figures are, as they order the sums."""
    retrain: RetrainConfig | None = None
    """Train on the kept subset and on a random one of the same size, and evaluate both; `off` by default."""

    def without_effect(self) -> list[str]:
        """See `Config`."""
        return ["threads: no effect with `device: cuda`"] if self.device == "cuda" and self.is_set("threads") else []

    @field_validator("retrain", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value == "off" else value
