"""What the configuration alone tells before any work: what cannot work, and what changes nothing."""

import math
import os
from collections.abc import Iterator, Mapping
from typing import Literal

from pipeline.config import RunConfig
from pipeline.config_base import Config
from pipeline.errors import UserError

MIMIC = "mimic"
_BATCHED = (MIMIC, "loss")
"""Kinds of selectors whose scores belong to the batches of the training."""


def num_visits(config: RunConfig) -> dict[str, int]:
    """Selector name -> how often it scores a sample, as far as the configuration tells."""
    if config.train.epochs is not None:
        epochs = config.train.epochs
    else:
        pool = config.pool.expected_samples
        epochs = math.ceil((config.train.samples_seen or 1) / pool) if pool else 1
    visits = {name: epochs if selector.kind == "loss" else 1 for name, selector in config.selectors.items()}
    return {MIMIC: epochs, **visits}


def check_voters(config: RunConfig) -> None:
    """Refuse votes that cannot be cast or weighed.

    Raises:
        UserError: `aggregate.method: label_model` with fewer than three voters; voters that do not exist; a
            `threshold` without a number, or on a scale that the selector's scores do not have.
    """
    visits = num_visits(config)
    try:
        config.aggregate.check_num_voters(config.binarize.num_voters(visits))
        for name in config.binarize.voting(list(visits)):
            voters = config.binarize.voters_of(name, visits[name], _belonging(config, name))
            if _kind(config, name) == "loss" and any(voter.method == "threshold" for voter in voters):
                _refuse_weights_of_losses(name, {voter.scale for voter in voters})
    except ValueError as error:
        raise UserError(
            "the votes do not fit",
            where="binarize, aggregate",
            found=error,
            next_step="change `binarize`, `aggregate` or `selectors`",
        ) from error


def check_metadata(config: RunConfig) -> None:
    """Refuse selectors that read metadata where there is none.

    Raises:
        UserError: names them.
    """
    wanting = [
        name
        for name, selector in sorted(config.selectors.items())
        if selector.kind == "basic" or (selector.kind == "clip_score" and selector.column is not None)
    ]
    if config.pool.metadata is None and wanting:
        raise UserError(
            "selectors need metadata, and the pool has none",
            where=", ".join(f"selectors.{name}" for name in wanting),
            expected="pool.metadata: a folder of Parquet files keyed by uid",
            found="nothing",
            next_step="set pool.metadata, or leave these selectors out",
        )


def check_gpus(config: RunConfig) -> None:
    """Refuse a training on GPUs that this machine does not have, where no cluster is named.

    Raises:
        UserError: says how many there are.
    """
    if not config.train.use_gpu or config.cluster.address or os.environ.get("RAY_ADDRESS"):
        return
    import torch  # paid for only where a GPU is asked for

    found = torch.cuda.device_count()
    if found < config.train.num_workers:
        raise UserError(
            "not as many GPUs here as the training asks for",
            where="train.use_gpu, train.num_workers",
            expected=f"{config.train.num_workers}, one a rank",
            found=f"{found} on this machine",
            next_step="name a cluster (RAY_ADDRESS or cluster.address), set train.num_workers to what is here, "
            "or train.use_gpu=false; `--plan` needs none",
        )


def warnings_of(config: RunConfig) -> list[str]:
    """Settings that change nothing, and voters that keep another share than the selection."""
    return [*without_effect(config), *_scales_without_effect(config), *_other_fractions(config)]


def without_effect(block: Config, path: str = "") -> Iterator[str]:
    """What each block of a configuration says of itself, with the keys that lead there."""
    yield from (f"{path or 'configuration'}: {line}" for line in block.without_effect())
    for name, field in type(block).model_fields.items():
        value = getattr(block, name)
        key = f"{path}.{field.alias or name}".lstrip(".")
        yield from _inside(value, key)


def _inside(value: object, key: str) -> Iterator[str]:
    if isinstance(value, Config):
        yield from without_effect(value, key)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _inside(item, f"{key}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _inside(item, key)


def _scales_without_effect(config: RunConfig) -> Iterator[str]:
    for name, voter in (config.binarize.voters or {}).items():
        if voter.scale not in (None, "raw") and _belonging(config, name) == "unbatched":
            yield f"binarize.voters.{name}: `scale` has no effect, as these scores belong to no batch"


def _other_fractions(config: RunConfig) -> Iterator[str]:
    """Decisions are best where voters keep the share that the selection keeps (area .81 against .93 otherwise)."""
    final, visits = config.select.final_fraction(), num_visits(config)
    if final is None or config.aggregate.resolved(config.binarize.num_voters(visits)) == "mean_score":
        return
    others: dict[float, list[str]] = {}
    for name in config.binarize.voting(list(visits)):
        rule = config.binarize.merged(name)
        if rule.method == "top_fraction" and rule.fraction is not None and rule.fraction != final:
            others.setdefault(rule.fraction, []).append(name)
    for fraction, names in others.items():
        verb = "keeps" if len(names) == 1 else "keep"
        yield (
            f"binarize: {', '.join(names)} {verb} {fraction:g}, the selection {final:g}: decisions are best when both "
            "are the same (binarize.fraction)"
        )


def _kind(config: RunConfig, name: str) -> str:
    return name if name == MIMIC else config.selectors[name].kind


def _belonging(config: RunConfig, name: str) -> Literal["batched", "unbatched"]:
    return "batched" if _kind(config, name) in _BATCHED else "unbatched"


def _refuse_weights_of_losses(name: str, scales: set[str]) -> None:
    if "weight" in scales:
        raise ValueError(
            f"{name}: losses have no weight that a `threshold` could be compared with; set binarize.voters.{name}.scale"
            " to batch_rank, batch_z or raw, and a number in `threshold`"
        )
