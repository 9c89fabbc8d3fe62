import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import FileEntry
from pipeline.errors import RunError
from stages.formats.ledger import Stretch, part_stem, partitions, stretches


def entry(first: int, last: int, rank: int, rows: int = 10, digest: str = "0a") -> FileEntry:
    return FileEntry(f"{part_stem(first, last, rank)}-{digest}.parquet", rows, 1, "0" * 64)


def test_stretches_group_ranks_and_come_in_the_order_of_steps() -> None:
    entries = [entry(5, 9, 1), entry(0, 4, 0, 3), entry(5, 9, 0), entry(0, 4, 1, 4)]
    found = stretches(entries, "root")
    assert [(s.first_step, s.last_step, s.num_steps, s.rows) for s in found] == [(0, 4, 5, 7), (5, 9, 5, 20)]
    assert found[0].parts == (entries[1], entries[3])


def test_stretches_may_have_other_numbers_of_ranks_after_each_other() -> None:
    assert len(stretches([entry(0, 1, 0), entry(2, 3, 0), entry(2, 3, 1)], "root")) == 2


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(0, 4, 0), entry(0, 4, 0, digest="ff")], "one part of rank 0 for steps 0..4"),
        ([entry(0, 4, 0), entry(0, 4, 2)], "parts of all ranks for steps 0..4"),
        ([entry(0, 4, 0), entry(4, 7, 0)], "steps from 5 on"),
        ([entry(0, 4, 0), entry(6, 7, 0)], "steps from 5 on"),
        ([FileEntry("ledger/other.parquet", 1, 1, "")], "not a part of a ledger"),
    ],
)
def test_ledger_that_is_not_whole_is_an_error(entries: list[FileEntry], message: str) -> None:
    with pytest.raises(RunError, match=message):
        stretches(entries, "root")


shapes = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 400)), min_size=1, max_size=8)


@settings(deadline=None)
@given(shapes, st.integers(1, 300))
def test_partitions_cover_each_step_once_and_stay_small(shape: list[tuple[int, int]], max_rows: int) -> None:
    found, step = [], 3
    for num_steps, rows in shape:
        found.append(Stretch(step, step + num_steps - 1, (entry(step, step + num_steps - 1, 0, rows),)))
        step += num_steps
    cut = partitions(found, max_rows)
    assert [s for p in cut for s in range(p.first_step, p.last_step + 1)] == list(range(3, step))
    for stretch in found:  # who holds a step knows the part that has it
        for partition in cut:
            if partition.first_step <= stretch.last_step and stretch.first_step <= partition.last_step:
                assert stretch.parts[0].path in partition.paths
    for partition in cut:
        per_step = max(s.rows / s.num_steps for s in found)
        assert partition.rows <= max_rows + per_step
        assert len(set(partition.paths)) == len(partition.paths)


def test_partitions_join_short_stretches_and_cut_long_ones() -> None:
    found = stretches([entry(0, 0, 0, 4), entry(1, 1, 0, 5), entry(2, 21, 0, 40), entry(22, 22, 0, 3)], "root")
    cut = partitions(found, 10)
    assert [(p.first_step, p.last_step, p.rows) for p in cut] == [
        (0, 1, 9), (2, 6, 10), (7, 11, 10), (12, 16, 10), (17, 21, 10), (22, 22, 3),
    ]  # fmt: skip
