"""Where a loader's batches lie and who decodes into them: its own threads, or processes beside it."""

import weakref

import numpy as np

from stages.formats.image import Decode
from stages.models.config import ModelConfig
from stages.train.decode_pool import DecodePool
from stages.train.decode_process import Setup
from stages.train.decoder import Encoded, decoder_for
from stages.train.shared_batches import BatchMemory, BatchShape, SharedBatches

_HELD = 2
"""Batches that a consumer has at once: the next one comes before it lets the last one go."""


class InThreads:
    """Batches in this process's own memory, decoded by whichever thread calls."""

    def __init__(self, model: ModelConfig, decode: Decode, shape: BatchShape, num_threads: int) -> None:
        """Nothing is loaded yet."""
        self._model, self._decode, self._shape = model, decode, shape
        self.num_threads = num_threads
        """How many threads should call `fill`."""

    def take(self) -> BatchMemory:
        """Memory for one batch."""
        shape = self._shape
        images = np.empty((shape.rows, 3, shape.image_size, shape.image_size), np.uint8)
        return BatchMemory(0, images, np.empty((shape.rows, shape.context_length), np.int64))

    def fill(self, encoded: Encoded, memory: BatchMemory, rows: slice) -> None:
        """See `Decoder.fill`."""
        decoder_for(self._model, self._decode).fill(encoded, memory.images[rows], memory.tokens[rows])

    def given(self, memory: BatchMemory) -> BatchMemory:
        """What the consumer gets."""
        return memory

    def close(self) -> None:
        """Nothing to end."""


class InProcesses:
    """Batches in shared memory, decoded in other processes; a thread each hands over work and waits."""

    def __init__(
        self, model: ModelConfig, decode: Decode, shape: BatchShape, num_processes: int, *, num_ahead: int
    ) -> None:
        """Start the processes.

        Args:
            model: whose tokenizer and image size count.
            decode: how images become pixels.
            shape: of a batch.
            num_processes: that decode.
            num_ahead: batches in preparation at once.
        """
        num_slots = num_ahead + _HELD
        self._memory = SharedBatches(shape, num_slots)
        self._given: set[int] = set()  # slots that the consumer got and that were not taken again since
        self._pool = DecodePool(Setup(model, decode, shape, num_slots), self._memory, num_processes)
        self.num_threads = num_processes
        """How many threads should call `fill`."""
        self._end = weakref.finalize(self, self._pool.close)

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return self._pool.pids

    def take(self) -> BatchMemory:
        """Memory for one batch, until nobody holds its arrays."""
        memory = self._memory.take()
        self._given.discard(memory.slot)
        return memory

    def fill(self, encoded: Encoded, memory: BatchMemory, rows: slice) -> None:
        """See `DecodePool.fill`."""
        self._pool.fill(encoded, memory, rows)

    def given(self, memory: BatchMemory) -> BatchMemory:
        """What the consumer gets: the memory itself, or a copy where it holds several batches already."""
        if sum(not self._memory.is_free(slot) for slot in self._given) < _HELD:
            self._given.add(memory.slot)
            return memory
        return BatchMemory(memory.slot, memory.images.copy(), memory.tokens.copy())

    def close(self) -> None:
        """End the processes; batches that were given stay valid."""
        self._end()
