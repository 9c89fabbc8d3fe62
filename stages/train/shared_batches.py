"""Memory for the batches of one rank that its decoding processes write into.

It has no name in any file system, so nothing stays behind when processes are killed, and the size of `/dev/shm` does
not bound it.
"""

import mmap
import os
import tempfile
import weakref
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class BatchShape(NamedTuple):
    """How large a rank's share of a batch is."""

    rows: int
    image_size: int
    context_length: int

    @property
    def image_bytes(self) -> int:
        """Of all its pixels."""
        return self.rows * 3 * self.image_size**2

    @property
    def slot_bytes(self) -> int:
        """Of one batch, in whole pages."""
        needed = -(-self.image_bytes // 8) * 8 + self.rows * self.context_length * 8
        return -(-needed // mmap.PAGESIZE) * mmap.PAGESIZE


class BatchMemory(NamedTuple):
    """Where one batch lies."""

    slot: int
    images: NDArray[np.uint8]
    """[rows, 3, S, S]"""
    tokens: NDArray[np.int64]
    """[rows, context]"""


class SharedBatches:
    """A fixed number of slots; one is free again when nobody holds its arrays any more."""

    def __init__(self, shape: BatchShape, num_slots: int, file: int | None = None) -> None:
        """Make the memory, or map what another process made (`file`, its descriptor)."""
        self._shape = shape
        self.file = _anonymous_file(shape.slot_bytes * num_slots) if file is None else file
        self._map = mmap.mmap(self.file, shape.slot_bytes * num_slots)
        self._free = list(range(num_slots))

    def is_free(self, slot: int) -> bool:
        """Whether nobody holds this slot."""
        return slot in self._free

    def take(self) -> BatchMemory:
        """A free slot, until its arrays and all views of them are gone."""
        slot = self._free.pop()
        owner, memory = self._arrays(slot)
        weakref.finalize(owner, self._free.append, slot).atexit = False
        return memory

    def at(self, slot: int) -> BatchMemory:
        """A slot that another process has taken."""
        return self._arrays(slot)[1]

    def close_file(self) -> None:
        """No further process can map it; arrays stay valid."""
        os.close(self.file)

    def _arrays(self, slot: int) -> tuple[NDArray[np.uint8], BatchMemory]:
        shape = self._shape
        # Views hold `owner`, not what it is a view of: it is no view of another array.
        owner = np.frombuffer(self._map, np.uint8, shape.slot_bytes, slot * shape.slot_bytes)
        tokens_bytes = shape.rows * shape.context_length * 8
        begin = -(-shape.image_bytes // 8) * 8
        images = owner[: shape.image_bytes].reshape(shape.rows, 3, shape.image_size, shape.image_size)
        tokens = owner[begin : begin + tokens_bytes].view(np.int64).reshape(shape.rows, shape.context_length)
        return owner, BatchMemory(slot, images, tokens)


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("gradsieve-batches")
    else:
        with tempfile.TemporaryFile() as unlinked:  # not Linux
            file = os.dup(unlinked.fileno())
    os.ftruncate(file, size)
    return file
