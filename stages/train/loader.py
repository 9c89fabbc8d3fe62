"""Batches for one rank: read ahead, decoded and tokenised beside the training thread, in threads or processes."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.storage import absolute
from stages.formats.image import Decode
from stages.formats.sample import sample_place
from stages.formats.uid_set import read_uid_set
from stages.models.config import ModelConfig
from stages.train.decode_work import InProcesses, InThreads
from stages.train.decoder import Encoded
from stages.train.order import EpochOrder, LaneSlots, Order, Positions
from stages.train.sample_index import SampleIndex
from stages.train.shared_batches import BatchMemory, BatchShape
from stages.train.visits import VisitCounter
from stages.train.window_reader import Stored, StreamReader, WindowReader


@dataclass(frozen=True)
class LoaderSpec:
    """All that a rank needs to load its batches; picklable."""

    pool: Artifact
    """Its storage must reach the shards below `pool_path` and `samples` as well."""
    pool_path: str
    """Folder or prefix that the pool's shard paths are relative to; made absolute, as ranks run in other folders."""
    model: ModelConfig
    seed: int
    lanes: int
    window: int
    batch_size: int
    """Of the global batch."""
    replacement: bool = False
    samples: tuple[str, ...] = ()
    """Subset files; if there are any, only the samples in them are visited."""
    decode: Decode = "exact"
    """How images become pixels."""
    decode_threads: int = 2
    decode_processes: int = 0
    """Processes that decode instead of threads; 0 for none."""
    prefetch: int = 2
    """Batches that are prepared ahead."""

    def __post_init__(self) -> None:
        """Make places absolute."""
        object.__setattr__(self, "pool_path", absolute(self.pool_path))
        object.__setattr__(self, "samples", tuple(map(absolute, self.samples)))


@dataclass(frozen=True)
class LocalBatch:
    """A rank's rows of one global batch, by lane."""

    images: NDArray[np.uint8]
    """[b, 3, S, S] RGB."""
    tokens: NDArray[np.int64]
    """[b, context]"""
    uid_hi: NDArray[np.uint64]
    uid_lo: NDArray[np.uint64]
    scored: NDArray[np.bool_]
    """False for fillers: negatives for the others, without weight and score."""
    visit: NDArray[np.uint16]
    epoch: int
    index: int
    """Number of the batch in its epoch."""


class Loader:
    """Iterates over the batches of one rank, from any place on."""

    def __init__(self, spec: LoaderSpec, rank: int, world_size: int) -> None:
        """Open the pool's index.

        Raises:
            UserError: the ranks cannot share the lanes evenly, or there is nothing to train on.
        """
        if spec.lanes % world_size or not 0 <= rank < world_size:
            raise UserError(
                "lanes cannot be shared evenly among the ranks",
                where="train.lanes",
                expected=f"a multiple of the number of ranks, {world_size}",
                found=spec.lanes,
            )
        self._spec = spec
        self._lanes = range(rank, spec.lanes, world_size)
        only = read_uid_set(spec.pool.storage, spec.samples) if spec.samples else None
        self._index = SampleIndex(spec.pool, only)
        if not self._index.counts.any():
            raise UserError(
                "there is no sample to train on",
                where=", ".join(spec.samples) or spec.pool.root,
                expected="usable samples of the pool" + (" among those listed" if spec.samples else ""),
                found="none",
            )
        self.order = Order(
            self._index.counts,
            seed=spec.seed,
            lanes=spec.lanes,
            window=spec.window,
            batch_size=spec.batch_size,
            replacement=spec.replacement,
        )
        self._waited = self._elapsed = 0.0
        rows = len(self._lanes) * self.order.lane_batch
        shape = BatchShape(rows, spec.model.image_size, spec.model.context_length)
        self._work: InThreads | InProcesses = (
            InProcesses(spec.model, spec.decode, shape, spec.decode_processes, num_ahead=spec.prefetch + 1)
            if spec.decode_processes
            else InThreads(spec.model, spec.decode, shape, spec.decode_threads)
        )

    def close(self) -> None:
        """End the decoding processes, if there are any; batches that were given stay valid."""
        self._work.close()

    @property
    def wait_share(self) -> float:
        """Share of the time since iteration (or the clock) began that was spent waiting for the next batch."""
        return self._waited / self._elapsed if self._elapsed else 0.0

    def restart_clock(self) -> None:
        """Forget what was waited for so far."""
        self._waited = self._elapsed = 0.0

    def iterate(self, epoch: int, first_batch: int = 0) -> Iterator[LocalBatch]:
        """The batches `first_batch`, `first_batch + 1`, ... of an epoch; what lies before is not read.

        Raises:
            RunError: a sample's bytes are not what the pool's index says; names file, offset and uid.
        """
        order = self.order.epoch(epoch)
        begun = time.monotonic()
        with (
            ThreadPoolExecutor(max(2, min(len(self._lanes), 8)), "read") as readers,
            ThreadPoolExecutor(self._work.num_threads, "decode") as decoders,
        ):
            plan = _EpochPlan(self._spec, self._lanes, order, self._index, self._work, readers, decoders)
            pending: deque[_PendingBatch] = deque()
            upcoming = iter(range(first_batch, self.order.num_batches))
            try:
                while True:
                    while len(pending) <= self._spec.prefetch and (index := next(upcoming, None)) is not None:
                        pending.append(plan.schedule(index))
                    if not pending:
                        return
                    waiting = time.monotonic()
                    batch = pending.popleft().collect()
                    now = time.monotonic()
                    self._waited += now - waiting
                    self._elapsed += now - begun
                    begun = now
                    yield batch
            finally:
                for pool in (decoders, readers):
                    pool.shutdown(wait=False, cancel_futures=True)


class _PendingBatch(NamedTuple):
    """A batch whose lanes are being decoded into its arrays."""

    batch: LocalBatch
    memory: BatchMemory
    lanes: list[Future[None]]
    work: InThreads | InProcesses

    def collect(self) -> LocalBatch:
        """Wait for all lanes."""
        for lane in self.lanes:
            lane.result()
        given = self.work.given(self.memory)
        return replace(self.batch, images=given.images, tokens=given.tokens)


class _EpochPlan:
    """Schedules the reading and decoding of one epoch's batches."""

    def __init__(
        self,
        spec: LoaderSpec,
        lanes: range,
        epoch: EpochOrder,
        index: SampleIndex,
        work: InThreads | InProcesses,
        readers: ThreadPoolExecutor,
        decoders: ThreadPoolExecutor,
    ) -> None:
        self._lanes, self._epoch, self._work, self._decoders = lanes, epoch, work, decoders
        self._visits = VisitCounter(epoch)
        self._windows = WindowReader(StreamReader(spec.pool.storage, spec.pool_path, index, epoch), epoch, readers)

    def schedule(self, index: int) -> _PendingBatch:
        """Start the work on one batch."""
        memory = self._work.take()
        batch = self._empty(index, memory)
        width = self._epoch.order.lane_batch
        work = []
        for number, lane in enumerate(self._lanes):
            slots = self._epoch.batch(index, lane)
            real = int(slots.scored.sum())
            sources = self._windows.need(lane, index * width, real) if real else []
            if real < width:
                sources.append(self._windows.fillers(slots.positions[real:]))
            rows = slice(number * width, (number + 1) * width)
            work.append(self._decoders.submit(self._fill, batch, memory, rows, slots, sources))
        return _PendingBatch(batch, memory, work, self._work)

    def _fill(
        self, batch: LocalBatch, memory: BatchMemory, rows: slice, slots: LaneSlots, sources: list[Future[Stored]]
    ) -> None:
        """Decode one lane's samples into their rows of the batch."""
        found = _find([source.result() for source in sources], slots.positions)
        for place, (source, row) in enumerate(found, rows.start):
            batch.uid_hi[place], batch.uid_lo[place] = source.rows.uid_hi[row], source.rows.uid_lo[row]
        encoded = Encoded([source.data[row] for source, row in found], [_place(*where) for where in found])
        self._work.fill(encoded, memory, rows)
        batch.scored[rows] = slots.scored
        batch.visit[rows] = self._visits.visits(slots.positions)

    def _empty(self, index: int, memory: BatchMemory) -> LocalBatch:
        size = len(memory.images)
        return LocalBatch(
            images=memory.images,
            tokens=memory.tokens,
            uid_hi=np.empty(size, np.uint64),
            uid_lo=np.empty(size, np.uint64),
            scored=np.empty(size, np.bool_),
            visit=np.empty(size, np.uint16),
            epoch=self._epoch.number,
            index=index,
        )


def _place(source: Stored, row: int) -> str:
    rows = source.rows
    return sample_place(source.uris[row], int(rows.offset[row]), int(rows.uid_hi[row]), int(rows.uid_lo[row]))


def _find(stored: list[Stored], positions: Positions) -> list[tuple[Stored, int]]:
    """Which of the sources holds each place in the stream, and in which row."""
    found: dict[int, tuple[Stored, int]] = {}
    for source in stored:
        rows = np.minimum(np.searchsorted(source.positions, positions), len(source.positions) - 1)
        for place in np.flatnonzero(source.positions[rows] == positions).tolist():
            found[place] = (source, int(rows[place]))
    return [found[place] for place in range(len(positions))]
