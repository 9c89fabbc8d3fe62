"""What a training may do otherwise than the `train` block."""

from pydantic import Field

from pipeline.config_base import Config


class RecipeConfig(Config):
    """Length, batch and optimiser of a training; what is not said is inherited."""

    epochs: int | None = Field(None, ge=1)
    """Passes over its samples; or `samples_seen`."""
    samples_seen: int | None = Field(None, ge=1)
    """Samples to train on in all; or `epochs`."""
    batch_size: int | None = Field(None, ge=2)
    """Samples of a global batch."""
    learning_rate: float | None = Field(None, gt=0)
    """At the end of the warm-up."""
    warmup: int | None = Field(None, ge=0)
    """Steps in which the learning rate rises."""
    weight_decay: float | None = Field(None, ge=0)
    """Of matrices."""
