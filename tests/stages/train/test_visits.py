from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.train.order import Order
from stages.train.visits import VisitCounter, emission_slots, lane_of

shapes = st.fixed_dictionaries(
    {
        "counts": st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
        "lanes": st.integers(1, 4),
        "width": st.integers(1, 3),
        "window": st.integers(1, 7),
        "seed": st.integers(0, 1 << 20),
    }
)


def order_of(shape: dict, *, replacement: bool) -> Order:
    return Order(
        np.asarray(shape["counts"], np.int64),
        seed=shape["seed"],
        lanes=shape["lanes"],
        window=shape["window"],
        batch_size=shape["lanes"] * shape["width"],
        replacement=replacement,
    )


def walk(order: Order, epochs: int) -> list[tuple[tuple[int, int], int]]:
    """(sample, visit) of all scored slots, in the order of training: batch, lane, place in the lane."""
    seen = []
    for number in range(epochs):
        epoch = order.epoch(number)
        counter = VisitCounter(epoch)
        for index in range(order.num_batches):
            for lane in range(order.lanes):
                slots = epoch.batch(index, lane)
                positions = slots.positions[slots.scored]
                shard, row = epoch.locate(positions)
                visits = counter.visits(positions)
                assert visits.dtype == np.uint16
                seen += list(zip(zip(shard.tolist(), row.tolist(), strict=True), visits.tolist(), strict=True))
    return seen


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_visits_with_replacement_count_up_in_the_order_of_training(shape: dict) -> None:
    met: Counter[tuple[int, int]] = Counter()
    for sample, visit in walk(order_of(shape, replacement=True), 3):
        assert visit == met[sample]
        met[sample] += 1


@settings(deadline=None, max_examples=30)
@given(shapes)
def test_visits_without_replacement_are_the_epochs(shape: dict) -> None:
    visits = defaultdict(list)
    for sample, visit in walk(order_of(shape, replacement=False), 3):
        visits[sample].append(visit)
    assert all(numbers == [0, 1, 2] for numbers in visits.values())
    assert len(visits) == sum(shape["counts"])


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_emission_slots_number_the_slots_of_a_straight_walk(shape: dict) -> None:
    order = order_of(shape, replacement=False)
    epoch = order.epoch(1)
    for index in range(order.num_batches):
        for lane in range(order.lanes):
            slots = epoch.batch(index, lane)
            positions = slots.positions[slots.scored]
            expected = index * order.batch_size + lane * order.lane_batch + np.arange(len(positions))
            assert emission_slots(epoch, positions).tolist() == expected.tolist()
            assert (lane_of(epoch, positions) == lane).all()


def test_visits_beyond_what_a_number_can_say_are_refused() -> None:
    order = order_of({"counts": [4], "lanes": 1, "width": 2, "window": 2, "seed": 0}, replacement=False)
    assert VisitCounter(order.epoch(65535)).visits(np.arange(2)).tolist() == [65535, 65535]
    with pytest.raises(ValueError, match="65536"):
        VisitCounter(order.epoch(65536)).visits(np.arange(2))
