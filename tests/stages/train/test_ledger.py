import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifact import ArtifactWriter, FileEntry
from pipeline.errors import RunError
from pipeline.schema import SCORES
from pipeline.storage import Storage
from stages.formats.ledger import LEDGER
from stages.train.ledger import Ledger


def batch(count: int, first: int = 0) -> dict[str, np.ndarray]:
    index = np.arange(first, first + count)
    return {
        "uid_hi": index.astype(np.uint64) << np.uint64(40),
        "uid_lo": index.astype(np.uint64),
        "visit": np.zeros(count, np.uint16),
        "score": index / 7,
        "weight": np.full(count, 0.25, np.float32),
        "loss": index.astype(np.float32),
    }


def test_cut_holds_what_was_appended_since_the_last_cut(tmp_path: Path) -> None:
    storage = Storage()
    ledger = Ledger(ArtifactWriter(str(tmp_path), storage), 3)
    ledger.append(0, **batch(4))
    ledger.append(1, **batch(2, 4))
    first = ledger.cut()
    ledger.append(2, **batch(3, 6))
    second = ledger.cut()
    assert isinstance(first, FileEntry)
    assert isinstance(second, FileEntry)
    assert first.path.startswith("ledger/steps-000000000-000000001/rank-00003-")
    assert second.path.startswith("ledger/steps-000000002-000000002/rank-00003-")
    table = storage.read_table(str(tmp_path / first.path))
    assert table.schema.equals(LEDGER)
    SCORES.check(table, first.path)
    assert table["step"].to_pylist() == [0, 0, 0, 0, 1, 1]
    assert table["uid_lo"].to_pylist() == list(range(6))
    assert table["score"].to_pylist() == [float(np.float32(i / 7)) for i in range(6)]
    assert (first.rows, second.rows) == (6, 3)


def test_cut_without_a_step_gives_nothing_but_an_empty_step_gives_a_part(tmp_path: Path) -> None:
    ledger = Ledger(ArtifactWriter(str(tmp_path), Storage()), 0)
    assert ledger.cut() is None
    ledger.append(5, **batch(0))
    part = ledger.cut()
    assert part is not None
    assert part.rows == 0
    assert ledger.cut() is None


@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=8), leaves=st.sets(st.integers(1, 8)))
def test_ledger_taken_up_again_any_number_of_times_gives_the_same_part(shape: list[int], leaves: set[int]) -> None:
    """Rows a step, and steps after which the process leaves and another one goes on."""
    with tempfile.TemporaryDirectory() as folder:
        writer = ArtifactWriter(folder, Storage())
        straight, disturbed = Ledger(writer, 1), Ledger(writer, 1)
        for step, rows in enumerate(shape):
            for ledger in (straight, disturbed):
                ledger.append(step + 3, **batch(rows, 10 * step))
            if step + 1 in leaves:
                left = disturbed.uncut()
                assert left is not None
                assert (left.first_step, left.last_step) == (3, step + 3)
                disturbed = Ledger(writer, 1, left)
        assert disturbed.cut() == straight.cut()


def test_uncut_rows_stay_until_they_are_cut(tmp_path: Path) -> None:
    ledger = Ledger(ArtifactWriter(str(tmp_path), Storage()), 0)
    assert ledger.uncut() is None
    ledger.append(2, **batch(3))
    assert ledger.uncut() == ledger.uncut()
    part = ledger.cut()
    assert part is not None
    assert part.rows == 3
    assert ledger.uncut() is None


def test_taken_up_ledger_refuses_a_step_that_does_not_follow(tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    first = Ledger(writer, 0)
    first.append(2, **batch(3))
    with pytest.raises(ValueError, match="step 2 does not follow step 2"):
        Ledger(writer, 0, first.uncut()).append(2, **batch(3))


def test_equal_rows_give_the_same_part_and_other_rows_another_name(tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    entries = []
    for shift in (0, 0, 1):
        ledger = Ledger(writer, 0)
        ledger.append(0, **batch(4, shift))
        entries.append(ledger.cut())
    assert entries[0] == entries[1]
    assert entries[2] is not None
    assert entries[0] is not None
    assert entries[2].path != entries[0].path
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_append_keeps_values_when_the_caller_reuses_its_arrays(tmp_path: Path) -> None:
    ledger = Ledger(ArtifactWriter(str(tmp_path), Storage()), 0)
    arrays = batch(4)
    ledger.append(0, **arrays)
    for array in arrays.values():
        array[:] = 0
    part = ledger.cut()
    assert part is not None
    assert Storage().read_table(str(tmp_path / part.path))["uid_lo"].to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["score", "weight", "loss"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_append_refuses_what_is_not_finite_naming_step_and_sample(tmp_path: Path, name: str, value: float) -> None:
    ledger = Ledger(ArtifactWriter(str(tmp_path), Storage()), 0)
    arrays = batch(4)
    arrays[name] = arrays[name].astype(np.float64)
    arrays[name][2] = value
    with np.errstate(over="ignore"), pytest.raises(RunError) as error:
        ledger.append(17, **arrays)
    assert f"the {name} of a sample" in str(error.value)
    assert "step 17, uid 00000200000000000000000000000002" in str(error.value)


def test_append_refuses_steps_that_do_not_follow(tmp_path: Path) -> None:
    ledger = Ledger(ArtifactWriter(str(tmp_path), Storage()), 0)
    ledger.append(4, **batch(1))
    with pytest.raises(ValueError, match="step 6 does not follow step 4"):
        ledger.append(6, **batch(1))


@pytest.mark.parametrize("sizes", [[5, 4, 3, 8, 1], [4, 4], [9], [0, 4, 0], [0]])
def test_rows_of_any_number_of_blocks_stay_in_their_order(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.train.ledger._BLOCK_ROWS", 4)
    writer = ArtifactWriter(str(tmp_path), Storage())
    ledger, batches = Ledger(writer, 0), [batch(rows, 100 * place) for place, rows in enumerate(sizes)]
    for step, found in enumerate(batches):
        ledger.append(step, **found)
        for column in found.values():
            column[:] = 0  # the caller's arrays are used again
    part = ledger.cut()
    assert part is not None
    table = writer.storage.read_table(str(tmp_path / part.path))
    assert table.schema.equals(LEDGER)
    assert table["step"].to_pylist() == [step for step, rows in enumerate(sizes) for _ in range(rows)]
    wanted = [batch(rows, 100 * place) for place, rows in enumerate(sizes)]
    for name in ("uid_hi", "uid_lo", "visit", "score", "weight", "loss"):
        kind = table[name].to_numpy().dtype
        assert table[name].to_pylist() == [value for found in wanted for value in found[name].astype(kind).tolist()]
