"""What scores cost beyond the step that gives them: ours beside one gradient a sample, `torch.func`'s vmap of grad.

Ours takes the derivative along v of what lies behind the last attention, from what the forward pass left behind. The
other way is what the definition says: for each sample the gradient of its own loss with respect to the mimicked
parameter, and its product with v; it needs a forward pass of its own. Captions' features are given to both.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.measure import Run, run_pairs, timed
from benchmarks.record import Line, Target
from stages.models.build import build_model
from stages.models.config import ModelConfig
from stages.models.threads import fixed_threads
from stages.train.config import MimicConfig, TrainConfig
from stages.train.mimic import build_step, resolve_names
from stages.train.ranks import Ranks
from stages.train.step import Outcome, Step
from stages.train.task import Batch, Encoders

MODEL = ModelConfig(name="ViT-B-32")
_THREADS = 2
_CHUNK = 8
_TOLERANCE = 1e-3


class _Size(NamedTuple):
    batch_size: int
    pairs: int


_SIZES = {"short": _Size(16, 2), "full": _Size(32, 10)}


def measure(form: str) -> list[Line]:
    """One ratio."""
    size = _SIZES[form]
    with fixed_threads(_THREADS):
        model, reference = (build_model(MODEL, seed).train() for seed in (0, 1))
        (name,) = resolve_names(MODEL, MimicConfig())
        batch = _batch(size.batch_size)
        theirs = _by_sample(copy.deepcopy(model), reference, name, batch)  # without the hooks of ours
        ours = _by_tail(model, reference, name, batch)
        error = float(np.abs(ours.scores() - theirs.scores()).max() / np.abs(theirs.scores()).max())
        if not error < _TOLERANCE:
            raise RuntimeError(f"scores differ by {error:.1e} of the largest one")
        pairs = run_pairs(ours.run, theirs.run, size.pairs)
    facts = {"model": MODEL.name, "parameter": name, "threads": _THREADS, "largest_relative_difference": error}
    return [
        Line(
            "mimic scores of a batch, beyond its forward pass",
            "torch.func: vmap of grad, one gradient a sample",
            pairs.speedup(),
            Target(20, "higher"),
            len(pairs),
            {"samples": size.batch_size},
            pairs.seconds(),
            facts,
        )
    ]


class _Contender(NamedTuple):
    scores: Callable[[], np.ndarray]
    """[B]"""
    run: Callable[[], Run]


def _by_tail(model: nn.Module, reference: nn.Module, name: str, batch: Batch) -> _Contender:
    config = TrainConfig(model=MODEL, epochs=1, batch_size=len(batch), lanes=1, precision="fp32")
    state = {key: value.detach() for key, value in reference.named_parameters()}
    step = build_step(Encoders(model), config, reference=state, names=(name,), ranks=Ranks(), seed=0)

    def run() -> Run:
        direction, outputs = step._current_direction(), _forward(step, batch)
        return timed(lambda: {"samples": len(_judged(step, batch, direction, outputs).losses)})

    def scores() -> np.ndarray:
        found = _judged(step, batch, step._current_direction(), _forward(step, batch)).scores
        assert found is not None
        return found

    return _Contender(scores, run)


def _forward(step: Step, batch: Batch) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return step._forward(batch, 0, 0, synchronised=False)


def _judged(step: Step, batch: Batch, direction: dict[str, Tensor], outputs: tuple[Tensor, ...]) -> Outcome:
    return step._judge(batch, outputs, step._tangents(batch, direction), direction)[0]


def _by_sample(model: nn.Module, reference: nn.Module, name: str, batch: Batch) -> _Contender:
    own = {key: value.detach() for key, value in model.named_parameters()}
    moved = own[name]
    direction = dict(reference.named_parameters())[name].detach() - moved
    unit = direction / direction.norm()
    with torch.no_grad():
        texts = F.normalize(model.encode_text(batch.tokens), dim=-1)  # type: ignore[operator]
    images, scale = _Images(model), own["logit_scale"].exp()

    def loss(value: Tensor, sample: Tensor) -> Tensor:
        features = functional_call(images, {f"model.{name}": value}, (batch.images,))  # [B, d]
        logits = scale * features @ texts.T
        both = logits.logsumexp(dim=1) + logits.logsumexp(dim=0)
        return (both / 2 - logits.diagonal()).gather(0, sample[None])[0]

    gradients = vmap(grad(loss), in_dims=(None, 0), chunk_size=_CHUNK)

    def scores() -> Tensor:
        found = gradients(moved, torch.arange(len(batch)))  # [B, ...]
        return -(found * unit).flatten(1).sum(dim=1)

    return _Contender(lambda: scores().detach().numpy(), lambda: timed(lambda: {"samples": len(scores())}))


class _Images(nn.Module):
    """The image tower as a function of the model's parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.model.encode_image(pixels), dim=-1)  # type: ignore[operator]


def _batch(size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, MODEL.image_size, MODEL.image_size, generator=generator)
    tokens = torch.randint(1, 40_000, (size, MODEL.context_length), generator=generator)
    tokens[:, -1] = 49_407  # the end of the text
    return Batch(images, tokens, torch.ones(size, dtype=torch.bool))
