"""The fixed batches on which scores are compared with what the reference does better."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from stages.train.check import Correlation, correlate
from stages.train.loader import Loader, LocalBatch
from stages.train.ranks import Ranks
from stages.train.step import Step
from stages.train.task import Batch

Uids = NDArray[np.uint64]


def to_batch(local: LocalBatch, device: torch.device) -> Batch:
    """A rank's rows on its device."""
    tensors = (torch.from_numpy(array) for array in (local.images, local.tokens, local.scored))
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def _copied(local: LocalBatch) -> LocalBatch:
    """In memory of its own: the loader's is for batches that come and go."""
    return replace(local, images=local.images.copy(), tokens=local.tokens.copy())


@dataclass(frozen=True)
class ProbeResult:
    """One batch of a probe, the scored samples of all ranks."""

    uid_hi: Uids
    uid_lo: Uids
    losses: NDArray[np.float64]
    scores: NDArray[np.float64] | None


class Probe:
    """The first batches of the order's first epoch, kept in memory as bytes."""

    def __init__(self, loader: Loader, num_samples: int, ranks: Ranks, device: torch.device) -> None:
        """Load as many whole batches as `num_samples` need, at most an epoch."""
        wanted = min(math.ceil(num_samples / loader.order.batch_size), loader.order.num_batches)
        self._batches = [_copied(local) for local in islice(loader.iterate(0, 0), wanted)]
        self._ranks, self._device = ranks, device

    def measure(self, step: Step, model: nn.Module) -> list[ProbeResult]:
        """Losses and scores with the model as it is; equal on all ranks."""
        was_training = model.training
        model.eval()
        try:
            return [self._measure(step, local) for local in self._batches]
        finally:
            model.train(was_training)

    def _measure(self, step: Step, local: LocalBatch) -> ProbeResult:
        outcome = step.score(to_batch(local, self._device))
        halves = np.stack([local.uid_hi, local.uid_lo], axis=1).view(np.int64)
        uids = self._ranks.gather(torch.from_numpy(halves).to(self._device)).cpu().numpy().view(np.uint64)
        keep = outcome.scored
        scores = None if outcome.scores is None else outcome.scores[keep]
        return ProbeResult(uids[keep, 0], uids[keep, 1], outcome.losses[keep], scores)


def probe_table(before: Sequence[ProbeResult], after: Sequence[ProbeResult]) -> pa.Table:
    """Losses of the probe's samples with theta_0 and theta_ref, a row a sample."""
    return pa.table(
        {
            "uid_hi": pa.array(np.concatenate([batch.uid_hi for batch in before]), pa.uint64()),
            "uid_lo": pa.array(np.concatenate([batch.uid_lo for batch in before]), pa.uint64()),
            "batch": pa.array(np.repeat(np.arange(len(before)), [len(b.losses) for b in before]), pa.int32()),
            "loss_theta_0": pa.array(np.concatenate([batch.losses for batch in before]), pa.float64()),
            "loss_theta_ref": pa.array(np.concatenate([batch.losses for batch in after]), pa.float64()),
        }
    )


@dataclass(frozen=True)
class LossDrops:
    """l_i(theta_0) - l_i(theta_ref) by uid."""

    by_uid: Mapping[tuple[int, int], float]

    @classmethod
    def read(cls, table: pa.Table) -> "LossDrops":
        """From a reference's probe table."""
        columns = (table.column(name).to_pylist() for name in ("uid_hi", "uid_lo", "loss_theta_0", "loss_theta_ref"))
        return cls({(hi, lo): before - after for hi, lo, before, after in zip(*columns, strict=True)})

    def correlation(self, results: Sequence[ProbeResult]) -> Correlation:
        """With the scores of a probe; samples that the reference was not probed on are left out."""
        batches = []
        for result in results:
            assert result.scores is not None
            keys = zip(result.uid_hi.tolist(), result.uid_lo.tolist(), strict=True)
            drops = np.array([self.by_uid.get(key, np.nan) for key in keys])
            known = ~np.isnan(drops)
            batches.append((result.scores[known], drops[known]))
        return correlate(batches)
