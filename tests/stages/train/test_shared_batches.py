"""Memory of batches: who holds it, and that processes see the same."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from stages.train.shared_batches import BatchShape, SharedBatches

SHAPE = BatchShape(rows=3, image_size=5, context_length=7)


def test_slots_do_not_overlap_and_have_the_shapes_of_a_batch() -> None:
    memory = SharedBatches(SHAPE, 3)
    taken = [memory.take() for _ in range(3)]
    assert {batch.images.shape for batch in taken} == {(3, 3, 5, 5)}
    assert {batch.tokens.shape for batch in taken} == {(3, 7)}
    for number, batch in enumerate(taken):
        batch.images[:] = number
        batch.tokens[:] = -number
    for number, batch in enumerate(taken):
        assert (batch.images == number).all()
        assert (batch.tokens == -number).all()


@pytest.mark.parametrize("name", ["images", "tokens"])
def test_slot_is_held_as_long_as_any_view_of_it_is(name: str) -> None:
    memory = SharedBatches(SHAPE, 1)
    batch = memory.take()
    view = getattr(batch, name)[1:, ..., 2]
    del batch
    gc.collect()
    assert not memory.is_free(0)
    del view
    gc.collect()
    assert memory.is_free(0)


def test_slot_is_held_by_a_tensor_over_it() -> None:
    import torch

    memory = SharedBatches(SHAPE, 1)
    tensor = torch.from_numpy(memory.take().images)[0]
    gc.collect()
    assert not memory.is_free(0)
    del tensor
    gc.collect()
    assert memory.is_free(0)


def test_more_than_there_is_cannot_be_taken() -> None:
    memory = SharedBatches(SHAPE, 1)
    held = memory.take()
    with pytest.raises(IndexError):
        memory.take()
    assert held.slot == 0


def test_another_process_writes_into_the_same_memory() -> None:
    memory = SharedBatches(SHAPE, 2)
    held = [memory.take(), memory.take()]
    script = (
        "import sys; from stages.train.shared_batches import *;"
        "batch = SharedBatches(BatchShape(3, 5, 7), 2, int(sys.argv[1])).at(int(sys.argv[2]));"
        "batch.images[1] = 9; batch.tokens[2] = 1 << 40"
    )
    arguments = [sys.executable, "-c", script, str(memory.file), str(held[0].slot)]
    subprocess.run(arguments, check=True, pass_fds=[memory.file], env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert (held[0].images[1] == 9).all()
    assert (held[0].tokens[2] == 1 << 40).all()
    assert held[0].images[[0, 2]].sum() == held[1].images.sum() == held[1].tokens.sum() == 0


def test_arrays_outlive_the_memory_and_its_file() -> None:
    memory = SharedBatches(SHAPE, 1)
    batch = memory.take()
    batch.images[:] = 5
    memory.close_file()
    del memory
    gc.collect()
    np.testing.assert_array_equal(batch.images, 5)
