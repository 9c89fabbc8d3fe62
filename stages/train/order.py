"""In which order training visits the pool: a pure function of (seed, epoch), cut into lanes.

An epoch permutes the shards and reads them as one stream of n samples. The stream is cut into lanes of equal
length (a cut may fall inside a shard), each lane is shuffled within windows, and batch g takes the next
`batch_size / lanes` samples of every lane. Everything is index arithmetic: any batch of any epoch is found
without walking there, by any number of ranks.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.kernels.uid import hash_u64

Positions = NDArray[np.int64]

_SHARDS, _WINDOWS, _DRAWS = 1, 2, 3  # what a hash is drawn for
_U64 = np.uint64


class LaneSlots(NamedTuple):
    """What one lane gives to one batch."""

    positions: Positions
    """[batch_size / lanes] places in the epoch's stream."""
    scored: NDArray[np.bool_]
    """[batch_size / lanes] False for fillers of a short last batch."""


class Places(NamedTuple):
    """Where samples of the stream lie."""

    shard: Positions
    """[n] index of the shard in the pool's list of shards."""
    row: Positions
    """[n] place of the sample among the shard's usable samples."""


@dataclass(frozen=True)
class Order:
    """The order of a whole training over one pool.

    Memory is O(shards + window), whatever the number of samples; nothing here depends on the number of ranks.
    """

    counts: Positions
    """[shards] usable samples of each shard."""
    seed: int = field(kw_only=True)
    lanes: int = field(kw_only=True)
    """Independent streams that make up a batch; a divisor of `batch_size`."""
    window: int = field(kw_only=True)
    """Samples of a lane that are shuffled among each other."""
    batch_size: int = field(kw_only=True)
    """Samples of a global batch."""
    replacement: bool = field(default=False, kw_only=True)
    """Draw shards uniformly with replacement instead of permuting them."""

    def __post_init__(self) -> None:
        """Refuse what has no order.

        Raises:
            ValueError: no samples, or lanes that do not divide the batch.
        """
        if self.lanes < 1 or self.window < 1 or self.batch_size < 1:
            raise ValueError(
                f"lanes ({self.lanes}), window ({self.window}), batch_size ({self.batch_size}) must be > 0"
            )
        if self.batch_size % self.lanes:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of lanes ({self.lanes})")
        if self.num_samples == 0:
            raise ValueError("there is no usable sample to train on")

    @cached_property
    def num_samples(self) -> int:
        """Samples of an epoch: n."""
        return int(self.counts.sum())

    @property
    def num_batches(self) -> int:
        """Batches of an epoch: ceil(n / batch_size)."""
        return -(-self.num_samples // self.batch_size)

    @property
    def lane_batch(self) -> int:
        """Samples that a lane gives to a batch."""
        return self.batch_size // self.lanes

    def cursor(self, step: int) -> tuple[int, int]:
        """(epoch, batch) of a training step, 0-based."""
        return divmod(step, self.num_batches)

    def epoch(self, epoch: int) -> "EpochOrder":
        """The order of one epoch."""
        return EpochOrder(self, epoch, _stream(self, epoch))


def num_steps(order: Order, *, epochs: int | None = None, samples_seen: int | None = None) -> int:
    """Steps of a training of so many epochs, or of so many samples (possibly ending inside an epoch).

    Raises:
        ValueError: not exactly one of the two is given.
    """
    if epochs is not None and samples_seen is None:
        return epochs * order.num_batches
    if samples_seen is not None and epochs is None:
        return math.ceil(samples_seen / order.batch_size)
    raise ValueError("give either epochs or samples_seen")


@dataclass(frozen=True)
class Stream:
    """An epoch's samples as consecutive runs of shard rows."""

    shards: Positions
    """[runs] shard of each run; a run begins at the shard's first usable sample."""
    ends: Positions
    """[runs] place in the stream behind each run; the last one is n."""

    @cached_property
    def starts(self) -> Positions:
        """[runs] place in the stream of each run's first sample."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch."""

    order: Order
    number: int
    stream: Stream

    def batch(self, index: int, lane: int) -> LaneSlots:
        """What `lane` gives to batch `index`.

        A lane holds (batches - 1) * lane_batch samples and its share of the last batch. Fillers of the last batch
        are the samples that the lane gave first in this epoch; where the epoch is shorter than one batch, they
        are the samples that follow in the stream, around its end.
        """
        order, width = self.order, self.order.lane_batch
        assert 0 <= index < order.num_batches
        start, count = self.lane_span(lane)
        real = min(width, count - index * width)
        positions = self.emitted(lane, index * width, real)
        fillers = width - real
        if fillers and order.num_batches > 1:
            positions = np.concatenate([positions, self.emitted(lane, 0, fillers)])
        elif fillers:
            following = (start + count + np.arange(fillers, dtype=np.int64)) % order.num_samples
            positions = np.concatenate([positions, following])
        return LaneSlots(positions, np.arange(width) < real)

    def lane_span(self, lane: int) -> tuple[int, int]:
        """(first place in the stream, number of samples) of a lane."""
        order = self.order
        full = (order.num_batches - 1) * order.lane_batch
        rest = order.num_samples - full * order.lanes  # samples of the last batch, 1..batch_size
        before, upto = lane * rest // order.lanes, (lane + 1) * rest // order.lanes
        return lane * full + before, full + upto - before

    def emitted(self, lane: int, first: int, count: int) -> Positions:
        """Places in the stream of the samples `first .. first + count` of a lane, after its shuffle."""
        window = self.order.window
        blocks = range(first // window, -(-(first + count) // window)) if count else range(0)
        pieces = [self.shuffled_window(lane, block) for block in blocks]
        joined = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
        skip = first - blocks.start * window if pieces else 0
        return joined[skip : skip + count]

    def shuffled_window(self, lane: int, block: int) -> Positions:
        """Places in the stream of a lane's `block`-th window, in the order of a keyed hash of the place."""
        start, count = self.lane_span(lane)
        begin = block * self.order.window
        places = np.arange(start + begin, start + min(begin + self.order.window, count), dtype=np.int64)
        keys = hash_u64(_like(places, self.number), places.astype(_U64), _key(self.order.seed, _WINDOWS))
        return places[np.argsort(keys, kind="stable")]

    def locate(self, positions: Positions) -> Places:
        """Shard and row of places in the stream."""
        run = self.run_of(positions)
        return Places(self.stream.shards[run], positions - self.stream.starts[run])

    def run_of(self, positions: Positions) -> Positions:
        """Number of the run that holds each place of the stream."""
        return np.searchsorted(self.stream.ends, positions, side="right").astype(np.int64)


def _stream(order: Order, epoch: int) -> Stream:
    """The epoch's runs: all shards permuted, or drawn until there are n samples (the last run is then cut)."""
    if order.replacement:
        shards = _draws(order, epoch)
    else:
        index = np.arange(len(order.counts), dtype=np.int64)
        keys = hash_u64(_like(index, epoch), index.astype(_U64), _key(order.seed, _SHARDS))
        shards = index[np.argsort(keys, kind="stable")]
    shards = shards[order.counts[shards] > 0]
    return Stream(shards, np.minimum(np.cumsum(order.counts[shards]), order.num_samples))


def _draws(order: Order, epoch: int) -> Positions:
    """Shards drawn uniformly, as many as give n samples at least."""
    total, count = len(order.counts), len(order.counts)
    while True:
        index = np.arange(count, dtype=_U64)
        uniform = hash_u64(_like(index, epoch), index, _key(order.seed, _DRAWS)) >> _U64(11)
        drawn = np.minimum((uniform.astype(np.float64) * 2.0**-53 * total).astype(np.int64), total - 1)
        reached = np.cumsum(order.counts[drawn]) >= order.num_samples
        if reached[-1]:
            return drawn[: int(np.argmax(reached)) + 1]
        count *= 2


def _key(seed: int, purpose: int) -> int:
    return int(hash_u64(np.asarray([purpose], _U64), np.zeros(1, _U64), seed)[0])


def _like(values: NDArray[np.generic], number: int) -> NDArray[np.uint64]:
    return np.full(len(values), number, _U64)
