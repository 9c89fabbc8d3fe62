"""From names of parameters to what computes their scores."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from stages.models.build import build_model
from stages.models.config import ModelConfig
from stages.train.config import MimicConfig, TrainConfig
from stages.train.direction import Direction, WeightDifference
from stages.train.mimic_names import OneTower, mimicked_names, tail_names, tower_of
from stages.train.ranks import Ranks
from stages.train.step import Precision, Step
from stages.train.tail import GeneralTangent, TailTangent
from stages.train.task import ContrastiveTask, Encoders, Tangent
from stages.train.weighting import SoftmaxWeighting, Uniform, Weighting

TOWERS: tuple[OneTower, ...] = ("image", "text")
_SHOWN = 12


def resolve_names(model: ModelConfig, mimic: MimicConfig) -> tuple[str, ...]:
    """The parameters to mimic, as the model names them.

    Raises:
        UserError: one of them is not in the model, or belongs to no tower; lists those that work.
    """
    try:
        names = mimicked_names(model, mimic)
    except KeyError as missing:
        raise _unknown(f"the default of the {missing.args[0]} tower", model) from None
    fast = {*tail_names(model, "image"), *tail_names(model, "text")}
    if not set(names) <= fast:
        with torch.device("meta"):
            known = {name for name, _ in build_model(model, seed=0).named_parameters() if tower_of(name)}
        for name in names:
            if name not in known:
                raise _unknown(name, model, sorted(known))
    return tuple(names)


def tangents_for(clip: nn.Module, names: tuple[str, ...]) -> dict[str, Tangent]:
    """Tower -> derivative of its features: the fast one where it covers all names, else the general one."""
    found: dict[str, Tangent] = {}
    for tower in TOWERS:
        own = {name for name in names if tower_of(name) == tower}
        if own:
            found[tower] = _tangent(clip, tower, own)
    return found


def build_step(
    wrapped: nn.Module,
    config: TrainConfig,
    *,
    reference: Mapping[str, Tensor] | None,
    names: tuple[str, ...],
    ranks: Ranks,
    seed: int,
) -> Step:
    """The step that a config describes.

    Args:
        wrapped: `Encoders`, or its data-parallel wrapper.
        config: method, temperature, reading, accumulation, precision.
        reference: weights to mimic; without them nothing is scored.
        names: parameters to mimic.
        ranks: this process among its peers.
        seed: of the run.
    """
    encoders = getattr(wrapped, "module", wrapped)
    assert isinstance(encoders, Encoders)
    precision = Precision(autocast=config.precision == "amp_bf16")
    task = ContrastiveTask()
    direction: Direction | None = None
    if reference is not None:
        current = dict(encoders.clip.named_parameters())
        targets = {name: reference[name].to(current[name]) for name in names}
        task, direction = ContrastiveTask(tangents_for(encoders.clip, names)), WeightDifference(targets)
    by_score = config.method == "mimic" and direction is not None
    weighting: Weighting = SoftmaxWeighting(config.temperature) if by_score else Uniform()
    return Step(
        wrapped,
        task,
        weighting,
        direction=direction,
        mimicked=names if direction is not None else (),
        reading=config.mimic.reading,
        accumulation=config.accumulation,
        precision=precision,
        ranks=ranks,
        seed=seed,
    )


def _tangent(clip: nn.Module, tower: OneTower, names: set[str]) -> Tangent:
    try:
        tail = TailTangent(clip, tower)
    except LookupError:
        return GeneralTangent(clip, tower)
    return tail if names <= set(tail.parameters) else GeneralTangent(clip, tower)


def _unknown(name: str, model: ModelConfig, known: list[str] | None = None) -> UserError:
    fast = [*tail_names(model, "image"), *tail_names(model, "text")]
    others = f"; or, at about twice the cost of a step, any of {len(known)} others of the towers" if known else ""
    return UserError(
        "this parameter cannot be mimicked",
        where="train.mimic",
        expected="one of " + ", ".join(fast or (known or [])[:_SHOWN]) + others,
        found=name,
        next_step="name parameters in `train.mimic.parameters` as the model's state dict does",
    )
