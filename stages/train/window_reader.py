"""The encoded bytes of a lane's windows, read ahead in large ranges and dropped when they are passed."""

import threading
from concurrent.futures import Executor, Future
from typing import NamedTuple

import numpy as np

from pipeline.storage import Storage, join
from stages.formats.ranges import read_pieces
from stages.train.order import EpochOrder, Positions
from stages.train.sample_index import SampleIndex, SampleRows


class Stored(NamedTuple):
    """Samples of the stream with their encoded bytes."""

    positions: Positions
    """[n] places in the stream, ascending."""
    rows: SampleRows
    data: list[memoryview]
    uris: list[str]
    """File of each sample."""


class StreamReader:
    """Reads samples by their places in an epoch's stream; neighbours in a shard share one read."""

    def __init__(self, storage: Storage, pool_path: str, index: SampleIndex, epoch: EpochOrder) -> None:
        """Nothing is read yet."""
        self._storage, self._pool_path, self._index, self._epoch = storage, pool_path, index, epoch
        self._lock = threading.Lock()

    def read(self, positions: Positions) -> Stored:
        """The samples at these places (in any order, without repetitions)."""
        positions = np.sort(positions)
        runs = self._epoch.run_of(positions)
        rows: list[SampleRows] = []
        data: list[memoryview] = []
        uris: list[str] = []
        for run in np.unique(runs):
            shard, row = self._epoch.locate(positions[runs == run])
            with self._lock:  # the index keeps what it read last
                samples = self._index.rows(int(shard[0])).take(row)
            uri = join(self._pool_path, self._index.paths[int(shard[0])])
            data += read_pieces(self._storage, uri, samples.offset, samples.length)
            rows.append(samples)
            uris += [uri] * len(row)
        return Stored(positions, SampleRows(*map(np.concatenate, zip(*rows, strict=True))), data, uris)


class WindowReader:
    """Windows of the lanes of one rank in one epoch; holds at most two of each lane."""

    def __init__(self, reader: StreamReader, epoch: EpochOrder, executor: Executor) -> None:
        """Reads happen on `executor`."""
        self._reader, self._epoch, self._executor = reader, epoch, executor
        self._windows: dict[tuple[int, int], Future[Stored]] = {}

    def need(self, lane: int, first: int, count: int) -> list[Future[Stored]]:
        """Windows that hold the samples `first .. first + count` of a lane; earlier ones are forgotten.

        The window behind them is asked for once half of the last one is passed.
        """
        window = self._epoch.order.window
        stop = first + count
        blocks = range(first // window, -(-stop // window))
        for passed in [key for key in self._windows if key[0] == lane and key[1] < blocks.start]:
            del self._windows[passed]
        wanted = [self._window(lane, block, first) for block in blocks]
        if (stop - 1) % window >= window // 2 and blocks.stop * window < self._epoch.lane_span(lane)[1]:
            self._window(lane, blocks.stop, first)
        return wanted

    def fillers(self, positions: Positions) -> Future[Stored]:
        """Samples of a short last batch, outside of the windows."""
        return self._executor.submit(self._reader.read, np.unique(positions))

    def _window(self, lane: int, block: int, first: int) -> Future[Stored]:
        """A window, without those samples that lie before the lane's place `first`."""
        if (lane, block) not in self._windows:
            skip = max(0, first - block * self._epoch.order.window)
            positions = self._epoch.shuffled_window(lane, block)[skip:]
            self._windows[lane, block] = self._executor.submit(self._reader.read, positions)
        return self._windows[lane, block]
