"""Training that went wrong in its numbers: which step, what the losses were before, which samples are at fault.

Nothing of it is committed: the last checkpoint is from before, and its weights are finite.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import RunError
from stages.train.loader import LocalBatch
from stages.train.ranks import Ranks
from stages.train.step import Outcome

DIVERGED_STEPS = 8
DIVERGED_ABOVE_CHANCE = 20.0
"""Nats above ln(batch) that the mean loss stays for `DIVERGED_STEPS` steps; logits of unit features reach 100."""
_MOST_NAMED = 8
_REMEDY = (
    "lower `train.learning_rate`, lengthen `train.warmup`, set `train.grad_clip`, or use `precision: fp32`; "
    "the last checkpoint is from before"
)


def offending_uids(outputs: Sequence[Tensor], local: LocalBatch, ranks: Ranks) -> list[str]:
    """Samples whose own outputs are not finite, of all ranks, as hex; called by every rank.

    A contrastive loss couples a batch: one sample without finite features makes every loss of it NaN.

    Args:
        outputs: this rank's, each [b, d].
        local: this rank's rows.
        ranks: this process among its peers.
    """
    finite = np.ones(len(local.uid_hi), np.bool_)
    for output in outputs:
        finite &= torch.isfinite(output).all(dim=1).cpu().numpy()
    bad = zip(local.uid_hi[~finite].tolist(), local.uid_lo[~finite].tolist(), strict=True)
    own = [f"{hi:016x}{lo:016x}" for hi, lo in bad]
    if ranks.world_size == 1:
        return own
    everyone: list[list[str]] = [[] for _ in range(ranks.world_size)]
    dist.all_gather_object(everyone, own)
    return [uid for part in everyone for uid in part]


def not_finite_error(
    where: str, outcome: Outcome, earlier: Iterable[float], *, offending: Sequence[str], batch_size: int
) -> RunError:
    """The loss or a score is NaN or infinite."""
    found = f"loss {outcome.loss:.4g}; before it {_losses(earlier)}; {_blame(offending, batch_size)}"
    if offending and len(offending) < batch_size:
        remedy = f"look at these samples (`gradsieve explain RUN UID`), or: {_REMEDY}"
    else:
        remedy = _REMEDY
    return RunError(
        "loss or scores are not finite", where=where, expected="finite numbers", found=found, next_step=remedy
    )


def diverged_error(where: str, losses: Sequence[float], chance: float) -> RunError:
    """The loss stays far above that of guessing."""
    return RunError(
        "training diverged",
        where=where,
        expected=f"a loss not far above {chance:.3g}, that of guessing",
        found=f"losses {_losses(losses)}",
        next_step=_REMEDY,
    )


def broken_weights_error(where: str, names: Sequence[str], earlier: Iterable[float]) -> RunError:
    """A step left weights that are not finite."""
    return RunError(
        "weights are not finite",
        where=where,
        expected="finite weights before a checkpoint",
        found=f"{len(names)} parameters, the first is {names[0]}; losses {_losses(earlier)}",
        next_step=_REMEDY,
    )


def _blame(offending: Sequence[str], batch_size: int) -> str:
    if not offending:
        return "every sample's features are finite"
    if len(offending) == batch_size:
        return f"no sample of this batch of {batch_size} has finite features: the weights are broken"
    more = f" and {len(offending) - _MOST_NAMED} more" if len(offending) > _MOST_NAMED else ""
    return f"features not finite of uid {', '.join(offending[:_MOST_NAMED])}{more}"


def _losses(losses: Iterable[float]) -> str:
    return ", ".join(f"{loss:.4g}" for loss in losses) or "none"
