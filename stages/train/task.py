"""What is learned: per-sample outputs of the model, and a loss for each sample among all others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.models.encode import normalise

Outputs = tuple[Tensor, ...]
"""Per-sample outputs, each [b, d]; what ranks exchange and losses are made of."""


@dataclass(frozen=True)
class Batch:
    """A rank's share of a batch, or a piece of it, on the device.

    Attributes:
        images: uint8 [b, 3, S, S], or floats already normalised.
        tokens: int64 [b, context_length].
        scored: bool [b]; False for fillers of the last batch, which are negatives only.
    """

    images: Tensor
    tokens: Tensor
    scored: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def pieces(self, number: int) -> "list[Batch]":
        """Equal consecutive pieces."""
        parts = zip(self.images.chunk(number), self.tokens.chunk(number), self.scored.chunk(number), strict=True)
        return [Batch(*part) for part in parts]


class Task(Protocol):
    """A model's outputs and sample losses; knows neither scores nor ranks' communication."""

    def outputs(self, model: nn.Module, batch: Batch) -> Outputs:
        """Outputs of a piece of the batch, with gradient."""

    def tangents(self, batch: Batch, direction: Mapping[str, Tensor]) -> Outputs:
        """Derivatives of the outputs of the piece that last passed, along a direction of mimicked parameters."""

    def scalars(self, model: nn.Module) -> dict[str, Tensor]:
        """Parameters that enter the loss beside the outputs, by name."""

    def losses(self, batch: Batch, local: Outputs, everyone: Outputs, scalars: Mapping[str, Tensor]) -> Tensor:
        """Loss l_i of this rank's samples, [b], from their outputs and those of all ranks' samples."""


class Tangent(Protocol):
    """Derivative of one tower's unit features along a direction of its parameters."""

    parameters: tuple[str, ...]
    """Names of the parameters that it can move, as in the model."""

    def __call__(self, batch: Batch, direction: Mapping[str, Tensor]) -> Tensor:
        """For the piece that last passed through the model: tangents of its unit features, [b, d]."""


class ContrastiveTask:
    """CLIP: outputs are unit features (image, text); l_i = (cross-entropy of row i + of column i) / 2.

    Rows and columns are those of the similarity matrix of the *global* batch, so every sample is a negative
    for all others, on whichever rank.
    """

    def __init__(self, tangents: Mapping[str, Tangent] | None = None) -> None:
        """Take the derivative of each mimicked tower (`image`, `text`); none where nothing is scored."""
        self._tangents = dict(tangents or {})

    def outputs(self, model: nn.Module, batch: Batch) -> Outputs:
        """See `Task`."""
        image, text = model(pixels_of(batch), batch.tokens)
        return image, text

    def tangents(self, batch: Batch, direction: Mapping[str, Tensor]) -> Outputs:
        """See `Task`; a tower whose parameters do not move has none (empty tensor [b, 0])."""
        still = torch.zeros(len(batch), 0, device=batch.tokens.device)
        towers = (self._tangents.get("image"), self._tangents.get("text"))
        return tuple(still if tangent is None else tangent(batch, direction) for tangent in towers)

    def scalars(self, model: nn.Module) -> dict[str, Tensor]:
        """See `Task`: the logarithm of the inverse temperature, and the bias where the model has one."""
        names = ("logit_scale", "logit_bias")
        return {name: getattr(model, name) for name in names if getattr(model, name, None) is not None}

    def losses(self, batch: Batch, local: Outputs, everyone: Outputs, scalars: Mapping[str, Tensor]) -> Tensor:
        """See `Task`."""
        del batch  # image i and caption i belong together: nothing else is needed
        (image, text), (images, texts) = local, everyone
        scale, bias = scalars["logit_scale"].exp(), scalars.get("logit_bias", 0.0)
        rows = scale * image @ texts.T + bias  # [b, B]: this rank's images among all captions
        columns = scale * text @ images.T + bias  # [b, B]: this rank's captions among all images
        paired = scale * (image * text).sum(dim=1) + bias  # [b]: the diagonal
        return (rows.logsumexp(dim=1) + columns.logsumexp(dim=1)) / 2 - paired


class Encoders(nn.Module):
    """A CLIP model as one module whose forward gives both unit features: what data parallelism wraps."""

    def __init__(self, clip: nn.Module) -> None:
        """Share the model's parameters."""
        super().__init__()
        self.clip = clip

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Unit features of images and captions, in the precision of the loss (float32, or float64 weights)."""
        image = self.clip.encode_image(pixels)  # type: ignore[operator]
        text = self.clip.encode_text(tokens)  # type: ignore[operator]
        return F.normalize(_at_least_float32(image), dim=-1), F.normalize(_at_least_float32(text), dim=-1)


def _at_least_float32(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


def pixels_of(batch: Batch) -> Tensor:
    """Normalised pixels, [b, 3, S, S]."""
    return normalise(batch.images) if batch.images.dtype == torch.uint8 else batch.images
