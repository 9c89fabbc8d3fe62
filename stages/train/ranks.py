"""Collectives between ranks whose results do not depend on buckets, timing or who asks."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers; alone without an initialised process group."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> "Ranks":
        """From torch's default process group."""
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def gather(self, local: Tensor) -> Tensor:
        """Rows of all ranks in rank order: [b, ...] -> [W * b, ...]; no gradient passes."""
        if self.world_size == 1:
            return local.detach().clone()
        parts = [torch.empty_like(local) for _ in range(self.world_size)]
        dist.all_gather(parts, local.detach().contiguous())
        return torch.cat(parts)

    def scatter_sum(self, everyone: Tensor) -> Tensor:
        """Sum over ranks of the rows that belong to this one: [W * b, ...] -> [b, ...].

        The sum runs in rank order, so that it is the same wherever and however often it is made.
        """
        if self.world_size == 1:
            return everyone
        return _sum_in_order(_exchange(everyone.contiguous(), self.world_size), self.world_size)

    def sum_in_order(self, flat: Tensor) -> Tensor:
        """Sum over ranks of a flat tensor, on every rank, each element added in rank order.

        Each rank sums one slice and then hands it to all; where slices begin changes nothing, since an
        element's terms are always added in the same order.
        """
        if self.world_size == 1:
            return flat
        padding = -flat.numel() % self.world_size
        padded = torch.cat([flat, flat.new_zeros(padding)]) if padding else flat.contiguous()
        own = _sum_in_order(_exchange(padded, self.world_size), self.world_size)
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(parts, own)
        return torch.cat(parts)[: flat.numel()]

    def word_of_first(self, value: Value) -> Value:
        """The first rank's value in every rank; any that can be pickled."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()


def _exchange(tensor: Tensor, world_size: int) -> Tensor:
    """Slice s of every rank's tensor goes to rank s: what arrives, in rank order."""
    assert len(tensor) % world_size == 0
    received = torch.empty_like(tensor)
    dist.all_to_all_single(received, tensor)
    return received


def _sum_in_order(parts: Tensor, world_size: int) -> Tensor:
    first, *others = parts.chunk(world_size)
    total = first.clone()
    for part in others:
        total += part
    return total
