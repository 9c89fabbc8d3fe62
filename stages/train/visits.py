"""How often training has met a sample before: the visit number of each place in an epoch's stream.

Without replacement a sample is met once an epoch, so its visit is the epoch. With replacement a shard may be
drawn again: visits then count the sample's earlier draws, in the order in which the batches give them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stages.train.order import EpochOrder, Order, Positions

MAX_VISITS = 1 << 16


@dataclass(frozen=True)
class VisitCounter:
    """Visit numbers of one epoch."""

    epoch: EpochOrder

    def visits(self, positions: Positions) -> NDArray[np.uint16]:
        """Visit of each place in the stream, 0-based.

        Raises:
            ValueError: a sample is visited more often than a visit number can say.
        """
        if self.epoch.order.replacement:
            visits = self._earlier_epochs(positions) + self._earlier_in_epoch(positions)
        else:
            visits = np.full(len(positions), self.epoch.number, np.int64)
        if visits.max(initial=0) >= MAX_VISITS:
            raise ValueError(f"a sample is visited {visits.max() + 1} times; at most {MAX_VISITS} can be told apart")
        return visits.astype(np.uint16)

    def _earlier_epochs(self, positions: Positions) -> Positions:
        shard, row = self.epoch.locate(positions)
        whole, cuts = self._history
        visits = whole[shard]
        for cut_shard, cut_rows in cuts:
            visits = visits + ((shard == cut_shard) & (row < cut_rows))
        return visits

    def _earlier_in_epoch(self, positions: Positions) -> Positions:
        """Count the epoch's other draws of the same shard row that come in an earlier slot of the training."""
        stream, starts = self.epoch.stream, self.epoch.stream.starts
        run = self.epoch.run_of(positions)
        row = positions - starts[run]
        slot = emission_slots(self.epoch, positions)
        visits = np.zeros(len(positions), np.int64)
        for shard in np.unique(stream.shards[run]):
            mine = np.flatnonzero(stream.shards[run] == shard)
            for other in self._runs_of(int(shard)):
                twin = starts[other] + row[mine]
                there = (run[mine] != other) & (twin < stream.ends[other])  # the last draw may be cut short
                twins = mine[there]
                visits[twins] += emission_slots(self.epoch, twin[there]) < slot[twins]
        return visits

    def _runs_of(self, shard: int) -> Positions:
        by_shard, sorted_shards = self._runs_by_shard
        first, last = np.searchsorted(sorted_shards, [shard, shard + 1])
        return by_shard[first:last]

    @cached_property
    def _runs_by_shard(self) -> tuple[Positions, Positions]:
        by_shard = np.argsort(self.epoch.stream.shards, kind="stable")
        return by_shard, self.epoch.stream.shards[by_shard]

    @cached_property
    def _history(self) -> tuple[Positions, list[tuple[int, int]]]:
        """Whole draws of each shard in the epochs before, and their cut ones as (shard, rows)."""
        order = self.epoch.order
        whole = np.zeros(len(order.counts), np.int64)
        cuts = []
        for number in range(self.epoch.number):
            shards, rows = _draws(order, number)
            cut = rows < order.counts[shards]
            np.add.at(whole, shards[~cut], 1)
            cuts += list(zip(shards[cut].tolist(), rows[cut].tolist(), strict=True))
        return whole, cuts


def emission_slots(epoch: EpochOrder, positions: Positions) -> Positions:
    """When the epoch gives each place of the stream: a number that grows with batch, lane and place in the lane."""
    order = epoch.order
    lane = lane_of(epoch, positions)
    slots = np.empty(len(positions), np.int64)
    for number in np.unique(lane):
        mine = np.flatnonzero(lane == number)
        start, _ = epoch.lane_span(int(number))
        block = (positions[mine] - start) // order.window
        for index in np.unique(block):
            rows = mine[block == index]
            shuffled = epoch.shuffled_window(int(number), int(index))
            place = np.empty(len(shuffled), np.int64)
            place[shuffled - shuffled.min()] = np.arange(len(shuffled))
            emitted = index * order.window + place[positions[rows] - shuffled.min()]
            batch, within = np.divmod(emitted, order.lane_batch)
            slots[rows] = batch * order.batch_size + number * order.lane_batch + within
    return slots


def lane_of(epoch: EpochOrder, positions: Positions) -> Positions:
    """Lane of each place in the stream."""
    ends = np.asarray([sum(epoch.lane_span(lane)) for lane in range(epoch.order.lanes)], np.int64)
    return np.searchsorted(ends, positions, side="right").astype(np.int64)


def _draws(order: Order, number: int) -> tuple[Positions, Positions]:
    """(shard, rows taken of it) of each draw of an epoch."""
    stream = order.epoch(number).stream
    return stream.shards, stream.ends - stream.starts
