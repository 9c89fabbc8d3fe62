"""Batches in shared memory while a consumer holds some of them."""

from collections.abc import Iterator

import pytest

from stages.train.decode_work import InProcesses
from stages.train.shared_batches import BatchShape
from tests.stages.models.tiny import TINY

SHAPE = BatchShape(2, TINY.image_size, TINY.context_length)
AHEAD = 2


@pytest.fixture
def work() -> Iterator[InProcesses]:
    work = InProcesses(TINY, "exact", SHAPE, 0, num_ahead=AHEAD)  # nobody decodes here
    yield work
    work.close()


def test_consumer_that_lets_go_gets_the_shared_memory_itself(work: InProcesses) -> None:
    pending = [work.take() for _ in range(AHEAD)]
    last = None
    for number in range(10):
        memory = pending.pop(0)
        memory.images[:] = number
        given = work.given(memory)
        assert given.images is memory.images
        del memory
        last, given = given, None  # type: ignore[assignment]
        pending.append(work.take())
        assert (last.images == number).all()


def test_consumer_that_holds_all_gets_copies_that_nobody_overwrites(work: InProcesses) -> None:
    pending = [work.take() for _ in range(AHEAD)]
    held = []
    for number in range(10):
        memory = pending.pop(0)
        memory.images[:], memory.tokens[:] = number, -number
        held.append(work.given(memory))
        del memory
        pending.append(work.take())
    for number, given in enumerate(held):
        assert (given.images == number).all()
        assert (given.tokens == -number).all()


def test_consumer_that_still_holds_the_last_epoch_leaves_room_for_the_next(work: InProcesses) -> None:
    pending = [work.take() for _ in range(AHEAD)]
    held = [work.given(pending.pop(0)) for _ in range(AHEAD)]  # the end of an epoch: nothing is taken any more
    pending = [work.take() for _ in range(AHEAD)]
    for number in range(10):
        held.append(work.given(pending.pop(0)))
        held[-1].images[:] = number
        pending.append(work.take())
    assert [int(given.images[0, 0, 0, 0]) for given in held[AHEAD:]] == list(range(10))
    assert len(held) == 10 + AHEAD
