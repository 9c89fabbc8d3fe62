"""A small CLIP model in float64, and brute-force oracles for its scores and gradients."""

from collections.abc import Callable, Mapping
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from stages.models.config import ModelConfig
from stages.train.config import Tower
from stages.train.task import Batch

CONTEXT = 8
IMAGE_BLOCK = "visual.transformer.resblocks.1."
TEXT_BLOCK = "transformer.resblocks.1."


def model_config(*, pool: str = "tok", custom_text: bool = False) -> ModelConfig:
    text: dict[str, Any] = {"width": 16, "heads": 2, "layers": 2, "context_length": CONTEXT}
    vision: dict[str, Any] = {
        "width": 32, "head_width": 16, "layers": 2, "image_size": 32, "patch_size": 8, "pool_type": pool,
    }  # fmt: skip
    return ModelConfig(embed_dim=16, vision_cfg=vision, text_cfg=text, custom_text=custom_text)


def tiny_clip(seed: int, *, pool: str = "tok", custom_text: bool = False, **vision: Any) -> nn.Module:
    """Vocabulary of 40 tokens: not for captions, but fast."""
    config = model_config(pool=pool).architecture
    config["vision_cfg"].update(vision)
    config["text_cfg"]["vocab_size"] = 40
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
        return kind(**config).double()


def tiny_batch(size: int, *, seed: int = 0, fillers: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 32, 32, generator=generator, dtype=torch.float64)
    tokens = torch.randint(1, 38, (size, CONTEXT), generator=generator)
    ends = torch.randint(2, CONTEXT, (size,), generator=generator)
    tokens[torch.arange(size), ends] = 39  # the greatest token marks the end
    scored = torch.ones(size, dtype=torch.bool)
    if fillers:
        scored[-fillers:] = False
    return Batch(images, tokens, scored)


def slow_losses(model: nn.Module, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """l_i by torch's own cross-entropy over the whole matrix, [B]."""

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
            logits, _ = self.model.get_logits(images, tokens)
            return logits

    named = {f"model.{name}": tensor for name, tensor in parameters.items()}
    logits = functional_call(Features(), named, (batch.images, batch.tokens))
    labels = torch.arange(len(batch))
    rows = F.cross_entropy(logits, labels, reduction="none")
    columns = F.cross_entropy(logits.T, labels, reduction="none")
    return (rows + columns) / 2


def slow_scores(model: nn.Module, direction: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """<-g_i, v> / ||v|| from one gradient a sample, by reverse mode, one sample after the other, [B]."""
    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    losses = slow_losses(model, parameters, batch)
    watched = [parameters[name] for name in direction]
    length = torch.sqrt(sum((v**2).sum() for v in direction.values()))  # type: ignore[arg-type]
    scores = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, watched, retain_graph=True)
        inner = sum((g * v).sum() for g, v in zip(gradients, direction.values(), strict=True))
        scores.append(-inner / length)
    return torch.stack(scores)  # type: ignore[arg-type]


def slow_gradients(model: nn.Module, batch: Batch, weights: Tensor) -> dict[str, Tensor]:
    """Gradient of sum_i w_i l_i with respect to every parameter."""
    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    total = (slow_losses(model, parameters, batch) * weights).sum()
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameters[name]) if g is None else g for name, g in zip(parameters, found, strict=True)
    }


def names_for(tower: Tower, *, text_prefix: str = "") -> list[str]:
    image, text = IMAGE_BLOCK + "mlp.c_proj.weight", text_prefix + TEXT_BLOCK + "mlp.c_proj.weight"
    return {"image": [image], "text": [text], "both": [text, image]}[tower]


def difference(student: nn.Module, reference: nn.Module, names: list[str]) -> dict[str, Tensor]:
    mine, other = dict(student.named_parameters()), dict(reference.named_parameters())
    return {name: (other[name] - mine[name]).detach() for name in names}


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


Check = Callable[[Tensor, Tensor], None]
