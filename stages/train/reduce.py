"""Reduction of gradients under DistributedDataParallel, in a fixed order."""

import torch
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from stages.train.ranks import Ranks


def parallel(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """The model with gradients *summed* over ranks, or itself where there is one rank.

    DistributedDataParallel rebuilds its buckets after the first step, so a resumed run has other buckets than
    an undisturbed one for a step; its own reductions then add in another order for three ranks and more. Here
    every element is added in rank order, whatever the bucket. Ranks hold terms of one global sum
    sum_i w_i l_i, hence the sum instead of the average.
    """
    if ranks.world_size == 1:
        return model
    wrapped = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
    wrapped.register_comm_hook(ranks, _sum_bucket_in_order)
    return wrapped


def _sum_bucket_in_order(ranks: Ranks, bucket: GradBucket) -> Future[Tensor]:
    # Synchronous: chained collectives of several buckets would start in an order that differs between ranks.
    flat = bucket.buffer()
    done: Future[Tensor] = Future(devices=[flat.device]) if flat.is_cuda else Future()
    done.set_result(ranks.sum_in_order(flat))
    return done
