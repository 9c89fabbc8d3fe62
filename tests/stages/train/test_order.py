import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.train.order import EpochOrder, Order, num_steps

Sample = tuple[int, int]


def order_of(counts: list[int], *, lanes: int = 2, width: int = 2, window: int = 4, seed: int = 0) -> Order:
    return Order(np.asarray(counts, np.int64), seed=seed, lanes=lanes, window=window, batch_size=lanes * width)


def samples_of(epoch: EpochOrder, positions: NDArray[np.int64]) -> list[Sample]:
    places = epoch.locate(positions)
    return list(zip(places.shard.tolist(), places.row.tolist(), strict=True))


def batch_of(epoch: EpochOrder, index: int) -> tuple[list[Sample], list[Sample]]:
    """(scored samples, fillers) of a global batch."""
    scored: list[Sample] = []
    fillers: list[Sample] = []
    for lane in range(epoch.order.lanes):
        slots = epoch.batch(index, lane)
        assert len(slots.positions) == epoch.order.lane_batch
        scored += samples_of(epoch, slots.positions[slots.scored])
        fillers += samples_of(epoch, slots.positions[~slots.scored])
    return scored, fillers


def everything(counts: list[int]) -> Counter[Sample]:
    return Counter((shard, row) for shard, count in enumerate(counts) for row in range(count))


shapes = st.fixed_dictionaries(
    {
        "counts": st.lists(st.integers(0, 23), min_size=1, max_size=12).filter(any),
        "lanes": st.integers(1, 6),
        "width": st.integers(1, 5),
        "window": st.integers(1, 9),
        "seed": st.integers(-5, 1 << 40),
    }
)


@settings(deadline=None, max_examples=60)
@given(shapes, st.integers(0, 3))
def test_epoch_of_any_shape_visits_each_sample_exactly_once(shape: dict, number: int) -> None:
    order = order_of(**shape)
    epoch = order.epoch(number)
    scored: Counter[Sample] = Counter()
    for index in range(order.num_batches):
        samples, fillers = batch_of(epoch, index)
        scored.update(samples)
        assert len(samples) + len(fillers) == order.batch_size
        assert not fillers or index == order.num_batches - 1
    assert scored == everything(shape["counts"])
    assert order.num_batches == -(-sum(shape["counts"]) // order.batch_size)


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_fillers_of_the_last_batch_come_from_the_first_one(shape: dict) -> None:
    order = order_of(**shape)
    epoch = order.epoch(1)
    _, fillers = batch_of(epoch, order.num_batches - 1)
    if order.num_batches > 1:
        first, _ = batch_of(epoch, 0)
        assert len(set(fillers)) == len(fillers)
        assert set(fillers) <= set(first)
    elif fillers:  # an epoch shorter than one batch repeats its samples as evenly as it can
        repeats = Counter(dict.fromkeys(everything(shape["counts"]), 0))
        for lane in range(order.lanes):
            slots = epoch.batch(0, lane)
            own = Counter(samples_of(epoch, slots.positions[~slots.scored]))
            assert max(own.values(), default=0) <= -(-order.lane_batch // order.num_samples)
            repeats.update(own)
        assert sum(repeats.values()) == order.batch_size - order.num_samples


@settings(deadline=None, max_examples=60)
@given(shapes, st.data())
def test_batches_at_any_place_equal_those_of_a_straight_walk(shape: dict, data: st.DataObject) -> None:
    order = order_of(**shape)
    walked = [batch_of(order.epoch(2), index) for index in range(order.num_batches)]
    index = data.draw(st.integers(0, order.num_batches - 1))
    assert batch_of(order_of(**shape).epoch(2), index) == walked[index]


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_lanes_are_balanced_and_cover_the_stream(shape: dict) -> None:
    order = order_of(**shape)
    spans = [order.epoch(0).lane_span(lane) for lane in range(order.lanes)]
    starts, counts = np.array(spans).T
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == order.num_samples
    assert starts.tolist() == [0, *np.cumsum(counts)[:-1].tolist()]


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_shuffle_moves_samples_within_their_window_only(shape: dict) -> None:
    order = order_of(**shape)
    epoch = order.epoch(0)
    for lane in range(order.lanes):
        start, count = epoch.lane_span(lane)
        emitted = epoch.emitted(lane, 0, count)
        assert ((emitted - start) // order.window == np.arange(count) // order.window).all()


def test_epochs_and_seeds_give_different_orders() -> None:
    counts = [40] * 10

    def walk(seed: int, number: int) -> list[Sample]:
        order = order_of(counts, lanes=4, width=5, window=20, seed=seed)
        return [sample for index in range(20) for sample in batch_of(order.epoch(number), index)[0]]

    walks = [walk(0, 0), walk(0, 1), walk(1, 0), walk(1, 1)]
    for i, one in enumerate(walks):
        for other in walks[i + 1 :]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 20  # 1 of 400 agrees by chance
    assert walk(0, 0) == walks[0]


def test_shuffle_mixes_a_window_and_the_shards() -> None:
    order = order_of([1000] * 50, lanes=2, width=5, window=500)
    epoch = order.epoch(0)
    moved = np.abs(epoch.emitted(0, 0, 500) - np.arange(500))
    assert 100 < moved.mean() < 230  # a uniform permutation moves by a third of the window on average
    assert np.corrcoef(epoch.stream.shards, np.arange(50))[0, 1] < 0.5


GOLDEN = [
    ([(3, 1), (0, 0), (2, 1), (2, 0)], []),
    ([(3, 0), (0, 2), (2, 2), (2, 3)], []),
    ([(0, 1), (2, 4)], [(3, 1), (2, 1)]),
]


def test_order_golden() -> None:
    epoch = order_of([3, 0, 5, 2], lanes=2, width=2, window=3, seed=7).epoch(1)
    assert [batch_of(epoch, index) for index in range(3)] == GOLDEN


def test_huge_pool_needs_memory_for_shards_and_window_only() -> None:
    order = order_of([10_000] * 20_000, lanes=8, width=512, window=1000)
    tracemalloc.start()
    epoch = order.epoch(3)
    for index in (0, 1, 20_000, order.num_batches - 1):
        for lane in (0, 7):
            epoch.locate(epoch.batch(index, lane).positions)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert order.num_samples == 200_000_000
    assert peak < 4 << 20


@settings(deadline=None, max_examples=60)
@given(shapes, st.integers(0, 2))
def test_replacement_fills_an_epoch_with_whole_draws(shape: dict, number: int) -> None:
    plain = order_of(**shape)
    order = Order(
        plain.counts, seed=plain.seed, lanes=plain.lanes, window=plain.window, batch_size=plain.batch_size,
        replacement=True,
    )  # fmt: skip
    epoch = order.epoch(number)
    taken = epoch.stream.ends - epoch.stream.starts
    assert order.num_batches == plain.num_batches
    assert taken.sum() == order.num_samples
    assert (taken[:-1] == order.counts[epoch.stream.shards[:-1]]).all()
    assert 0 < taken[-1] <= order.counts[epoch.stream.shards[-1]]
    scored = sum(len(batch_of(epoch, index)[0]) for index in range(order.num_batches))
    assert scored == order.num_samples


def test_replacement_draws_shards_uniformly() -> None:
    order = Order(np.full(400, 10), seed=0, lanes=2, window=8, batch_size=8, replacement=True)
    draws = np.bincount(np.concatenate([order.epoch(number).stream.shards for number in range(100)]), minlength=400)
    assert draws.sum() == 40_000
    assert ((draws - 100) ** 2 / 100).sum() < 400 + 5 * np.sqrt(800)  # chi-squared with 399 degrees of freedom
    seen = np.mean([np.unique(order.epoch(number).stream.shards).size / 400 for number in range(100)])
    assert seen == pytest.approx(1 - np.exp(-1), abs=0.01)


def test_cursor_counts_epochs_and_batches() -> None:
    order = order_of([5, 4])
    assert order.num_batches == 3
    assert [order.cursor(step) for step in (0, 2, 3, 7)] == [(0, 0), (0, 2), (1, 0), (2, 1)]


def test_num_steps_from_epochs_or_samples() -> None:
    order = order_of([5, 4])
    assert num_steps(order, epochs=2) == 6
    assert num_steps(order, samples_seen=9) == 3
    assert num_steps(order, samples_seen=16) == 4
    assert num_steps(order, samples_seen=17) == 5
    with pytest.raises(ValueError, match="either"):
        num_steps(order, epochs=1, samples_seen=1)
    with pytest.raises(ValueError, match="either"):
        num_steps(order)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lanes": 3, "batch_size": 4}, "multiple of lanes"),
        ({"lanes": 0, "batch_size": 4}, "must be > 0"),
        ({"counts": np.zeros(3, np.int64)}, "no usable sample"),
    ],
)
def test_order_that_cannot_be_is_refused(arguments: dict, message: str) -> None:
    given_ = {"counts": np.ones(3, np.int64), "seed": 0, "lanes": 2, "window": 2, "batch_size": 4, **arguments}
    with pytest.raises(ValueError, match=message):
        Order(given_.pop("counts"), **given_)
