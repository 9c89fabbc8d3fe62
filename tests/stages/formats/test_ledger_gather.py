"""The gather's own functions against a plain computation in Python."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.errors import RunError
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.formats.ledger import LEDGER, LedgerPartition, part_stem
from stages.formats.ledger_gather import Gathered, gather_ledger, read_partition, scored, table_schema
from tests.artifacts import commit


def run_here(task: Callable[[Any], Any], items: Sequence[Any], **_: object) -> list[Any]:
    """`Engine.map` without an engine."""
    return [task(item) for item in items]


def ledger_of(steps: Sequence[int], seed: int = 0) -> pa.Table:
    """One row for each entry, of a sample and visit of its own."""
    rng = np.random.default_rng(seed)
    number = len(steps)
    columns = {
        "uid_hi": rng.integers(0, 2**64, number, np.uint64),
        "uid_lo": np.arange(number, dtype=np.uint64),
        "visit": np.zeros(number, np.uint16),
        "step": np.asarray(steps, np.int32),
        "score": rng.integers(-3, 3, number).astype(np.float32),  # with ties
        "weight": rng.random(number, np.float32),
        "loss": rng.integers(0, 4, number).astype(np.float32),
    }
    return pa.table({name: columns[name] for name in LEDGER.names}, LEDGER)


def training_of(root: Path, parts: dict[tuple[int, int, int], pa.Table], **options: int) -> Artifact:
    """A training whose ledger has these (first step, last step, rank) parts."""
    import io

    import pyarrow.parquet as pq

    writer = ArtifactWriter(str(root), Storage())
    files = []
    for (first, last, rank), table in parts.items():
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        files.append(
            writer.put_bytes(f"{part_stem(first, last, rank)}-0a.parquet", sink.getvalue(), rows=table.num_rows)
        )
    return commit(root, "training/mimic", StageResult(tuple(files), {}))


steps_ = st.lists(st.integers(0, 6), min_size=1, max_size=40)


@settings(deadline=None)
@given(steps_, st.integers(0, 2**31), st.sampled_from(["score", "loss"]))
def test_scored_rank_and_z_of_each_batch_equal_a_plain_computation(steps: list[int], seed: int, measure: Any) -> None:
    ledger = ledger_of(steps, seed)
    found = scored(ledger, measure)
    assert found.schema == table_schema(measure)
    values = ledger["score"].to_numpy() if measure == "score" else -ledger["loss"].to_numpy()
    by_step: dict[int, list[int]] = defaultdict(list)
    for row, step in enumerate(steps):
        by_step[step].append(row)
    for rows in by_step.values():
        batch = values[rows].astype(np.float64)
        spread = batch.std()
        for row, value in zip(rows, batch, strict=True):
            below, same = int((batch < value).sum()), int((batch == value).sum())
            middle = (below + (same + 1) / 2 - 0.5) / len(batch)
            assert found["rank"][row].as_py() == pytest.approx(middle, abs=1e-6)
            expected = (value - batch.mean()) / spread if spread > 0 else 0.0
            assert found["z"][row].as_py() == pytest.approx(expected, abs=1e-5)
            assert found["batch"][row].as_py() == len(batch)
            assert found["score"][row].as_py() == pytest.approx(value)


def test_scored_columns_follow_the_measure() -> None:
    ledger = ledger_of([0, 0, 1])
    assert "weight" in scored(ledger, "score").column_names
    assert "weight" not in scored(ledger, "loss").column_names
    assert scored(ledger, "loss")["loss"].equals(ledger["loss"])


@pytest.mark.parametrize("group_rows", [1, 4, 1000])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (2, 5), (0, 9), (7, 9)])
def test_read_partition_takes_its_steps_from_all_parts(tmp_path: Path, group_rows: int, first: int, last: int) -> None:
    """Whether or not row groups end where steps do."""
    tables = [ledger_of([step for step in range(10) for _ in range(rank + 1)], rank) for rank in range(2)]
    training = training_of(
        tmp_path, {(0, 9, rank): table for rank, table in enumerate(tables)}, row_group_size=group_rows
    )
    paths = tuple(file.path for file in training.files("ledger/"))
    found = read_partition(training, LedgerPartition(first, last, paths, 0))
    whole = pa.concat_tables(tables)
    expected = [row for row in whole.to_pylist() if first <= row["step"] <= last]
    assert found.to_pylist() == expected


def gathered(root: Path, parts: dict[tuple[int, int, int], pa.Table], bits: int, max_rows: int) -> tuple[Gathered, Any]:
    writer = ArtifactWriter(str(root / "scores"), Storage())
    training = training_of(root / "training", parts)
    found = gather_ledger(run_here, training, writer, measure="score", bits=bits, name="s", max_rows=max_rows)
    return found, pa.concat_tables(Storage().read_table(str(root / "scores" / file.path)) for file in found.files)


@pytest.mark.parametrize("bits", [0, 1, 3])
@pytest.mark.parametrize("max_rows", [1, 8, 10**6])
def test_gather_any_cut_gives_the_sorted_ledger_once(tmp_path: Path, bits: int, max_rows: int) -> None:
    early, late = ledger_of([0, 0, 0, 1, 1, 2], 1), ledger_of([3] * 4 + [4] * 2, 2)
    found, table = gathered(tmp_path, {(0, 2, 0): early, (3, 4, 0): late}, bits, max_rows)
    rows = sorted(pa.concat_tables([early, late]).to_pylist(), key=lambda row: (row["uid_hi"], row["uid_lo"]))
    assert table.select(LEDGER.names).to_pylist() == rows
    assert (found.rows_in, found.rows, found.scored, found.visits, len(found.files)) == (12, 12, 12, 1, 1 << bits)


def test_gather_a_sample_scored_twice_for_one_visit_is_an_error(tmp_path: Path) -> None:
    ledger = ledger_of([0, 0, 1])
    twice = pa.concat_tables([ledger, ledger.slice(0, 1)])
    with pytest.raises(RunError, match="two scores for one visit"):
        gathered(tmp_path, {(0, 1, 0): twice}, 1, 10)


def test_gather_without_a_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="recorded no scores"):
        gathered(tmp_path, {}, 0, 10)


def test_gather_reads_only_what_the_manifest_lists(tmp_path: Path) -> None:
    """A rank that came back from the dead leaves parts behind that no checkpoint lists."""
    (tmp_path / "training/ledger/steps-000000000-000000001").mkdir(parents=True)
    stray = tmp_path / "training/ledger/steps-000000000-000000001/rank-00000-ff.parquet"
    stray.write_bytes(b"left by a zombie")
    found, _ = gathered(tmp_path, {(0, 1, 0): ledger_of([0, 1])}, 0, 10)
    assert found.rows == 2


def pool_of(root: Path, usable: int) -> Artifact:
    return commit(root, "pool", StageResult((), {"usable": usable, "bucket_bits": 2}))


@pytest.mark.parametrize(("usable", "coverage"), [(8, 0.5), (4, 1.0)])
def test_summary_coverage_is_the_share_of_usable_samples(tmp_path: Path, usable: int, coverage: float) -> None:
    summary = Gathered((), 9, 9, 4, 2).summary("mimic", pool_of(tmp_path, usable))
    assert (summary["coverage"], summary["scored"], summary["visits"], summary["bucket_bits"]) == (coverage, 4, 2, 2)


def test_summary_of_more_samples_than_the_pool_has_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="more samples were scored"):
        Gathered((), 9, 9, 5, 2).summary("mimic", pool_of(tmp_path, 4))


def test_summary_of_an_empty_pool_divides_by_nothing(tmp_path: Path) -> None:
    assert Gathered((), 0, 0, 0, 0).summary("mimic", pool_of(tmp_path, 0))["coverage"] == 0.0
