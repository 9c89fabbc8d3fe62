"""The ledger of many ranks, gathered: against a plain computation over all rows at once."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from pipeline.artifact import Artifact, ArtifactWriter, FileEntry
from pipeline.config_base import Config
from pipeline.engine import Engine
from pipeline.errors import RunError
from pipeline.rates import RatesConfig
from pipeline.stage import Size, StagePlan, StageResult
from pipeline.storage import Storage
from stages.formats import ledger_gather
from stages.formats.frames import open_frame
from stages.formats.score_parts import MERGE_BYTES_PER_ROW
from stages.kernels.buckets import TASK_BASE
from stages.train.gather import GatherStage
from stages.train.ledger import Ledger
from tests.artifacts import commit, context, run_stage
from tests.stages.train.tiny_pool import uid_of

ROWS = ["uid_hi", "uid_lo", "visit"]


def fake_pool(root: Path, usable: int, bits: int) -> Artifact:
    return commit(root, "pool", StageResult((), {"usable": usable, "bucket_bits": bits}))


def train(
    root: Path, *, num_samples: int = 50, batch: int = 8, epochs: int = 2, world: int = 2, cut_every: int = 3
) -> tuple[Artifact, pa.Table]:
    """(a training artifact with a ledger, all of its rows)."""
    writer = ArtifactWriter(str(root), Storage())
    ledgers = [Ledger(writer, rank) for rank in range(world)]
    random = np.random.default_rng(5)
    entries: list[FileEntry] = []
    step = 0
    for epoch in range(epochs):
        order = random.permutation(num_samples)
        for first in range(0, num_samples, batch):
            for rank, ledger in enumerate(ledgers):
                numbers = order[first : first + batch][rank::world]
                hi, lo = (np.array([uid_of(int(n))[half] for n in numbers], np.uint64) for half in (0, 1))
                values = {name: random.normal(size=len(numbers)) for name in ("score", "weight", "loss")}
                ledger.append(step, uid_hi=hi, uid_lo=lo, visit=np.full(len(numbers), epoch, np.uint16), **values)
            step += 1
            if step % cut_every == 0:
                entries += [cut for ledger in ledgers if (cut := ledger.cut())]
    entries += [cut for ledger in ledgers if (cut := ledger.cut())]
    artifact = commit(root, "training/mimic", StageResult(tuple(entries), {}))
    return artifact, pa.concat_tables(artifact.tables("ledger/"))


def gather(
    root: Path, training: Artifact, *, bits: int = 3, usable: int = 50, engine: Engine | None = None
) -> Artifact:
    inputs = {"pool": fake_pool(root / "pool", usable, bits), "training": training}
    return run_stage(GatherStage(Config()), root / "scores", "scores/mimic", inputs=inputs, engine=engine)


def table_of(scores: Artifact) -> pa.Table:
    return pa.concat_tables(scores.tables("bucket-")).combine_chunks()


def test_gathered_rows_are_the_ledgers_rows_by_uid_and_visit(tmp_path: Path) -> None:
    training, ledger = train(tmp_path / "training")
    scores = table_of(gather(tmp_path, training))
    expected = ledger.sort_by([(name, "ascending") for name in ROWS])
    assert scores.select(ledger.column_names).equals(expected.combine_chunks())
    assert scores.num_rows == 100


def test_rank_z_and_batch_are_those_of_whole_batches(tmp_path: Path) -> None:
    training, _ = train(tmp_path / "training")
    frame = pl.DataFrame(table_of(gather(tmp_path, training)))
    whole = frame.with_columns(
        rank_=((pl.col("score").rank("average").over("step") - 0.5) / pl.len().over("step")).cast(pl.Float32),
        z_=(
            (pl.col("score").cast(pl.Float64) - pl.col("score").cast(pl.Float64).mean().over("step"))
            / pl.col("score").cast(pl.Float64).std(ddof=0).over("step")
        ).cast(pl.Float32),
        batch_=pl.len().over("step").cast(pl.UInt32),
    )
    np.testing.assert_allclose(whole["rank"], whole["rank_"], rtol=1e-6)
    np.testing.assert_allclose(whole["z"], whole["z_"], rtol=1e-5, atol=1e-6)
    assert whole["batch"].equals(whole["batch_"], check_names=False)
    assert Counter(whole["batch"].to_list()) == {8: 96, 2: 4}  # 6 full batches and one of 2, twice


def test_summary_and_counts(tmp_path: Path) -> None:
    training, _ = train(tmp_path / "training")
    scores = gather(tmp_path, training, usable=80)
    assert scores.summary == {
        "selector": "mimic", "visits": 2, "rows": 100, "scored": 50, "usable": 80, "coverage": 0.625,
        "bucket_bits": 3, "batched": True,
    }  # fmt: skip
    assert scores.manifest.counts is not None
    assert (scores.manifest.counts.seen, scores.manifest.counts.out) == (100, 100)
    assert [file.path for file in scores.files()] == [f"bucket-{number:05d}.parquet" for number in range(8)]


@pytest.mark.parametrize(
    ("max_rows", "world", "cut_every", "num_parts"), [(1, 1, 1, 14), (17, 2, 2, 7), (64, 4, 5, 2), (1 << 20, 2, 100, 1)]
)
def test_bytes_do_not_depend_on_partitions(
    tmp_path: Path, max_rows: int, world: int, cut_every: int, num_parts: int
) -> None:
    training, ledger = train(tmp_path / "training", world=1, cut_every=3)
    straight = gather(tmp_path / "straight", training)
    again = recut(tmp_path / "again", ledger, world, cut_every)
    writer = ArtifactWriter(str(tmp_path / "other"), Storage())
    engine = context(tmp_path).engine
    other = ledger_gather.gather_ledger(
        engine.map, again, writer, measure="score", bits=3, name="scores", max_rows=max_rows
    )
    assert other.files == tuple(straight.files("bucket-"))
    assert (other.rows_in, other.rows, other.scored, other.visits) == (100, 100, 50, 2)
    assert len(list((tmp_path / "other" / "parts").iterdir())) == num_parts


def recut(root: Path, ledger: pa.Table, world: int, cut_every: int) -> Artifact:
    """The same rows as other ranks would have written them."""
    writer = ArtifactWriter(str(root), Storage())
    steps = ledger["step"].to_numpy()
    entries = []
    for rank in range(world):
        mine = Ledger(writer, rank)
        for step in range(int(steps.max()) + 1):
            rows = np.flatnonzero(steps == step)[rank::world]
            part = ledger.take(rows).drop_columns(["step"])
            mine.append(step, **{name: part[name].to_numpy() for name in part.column_names})
            if step % cut_every == cut_every - 1:
                entries.append(mine.cut())
        entries.append(mine.cut())
    return commit(root, "training/mimic", StageResult(tuple(entry for entry in entries if entry), {}))


def test_long_stretch_is_read_by_the_row_groups_of_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, _ = train(tmp_path / "training", cut_every=1000)
    (stretch,) = ledger_gather.stretches(training.files("ledger/"), "")
    cut = ledger_gather.partitions([stretch], 20)
    assert len(cut) == 5
    tables = [ledger_gather.read_partition(training, partition) for partition in cut]
    assert sum(table.num_rows for table in tables) == 100
    for partition, table in zip(cut, tables, strict=True):
        assert set(table["step"].to_pylist()) == set(range(partition.first_step, partition.last_step + 1))


def test_replayed_step_is_an_error_and_never_counts_twice(tmp_path: Path) -> None:
    training, _ = train(tmp_path / "training", epochs=1)
    writer = ArtifactWriter(training.root, Storage())
    ledger = Ledger(writer, 0)
    first = training.read_table(training.files("ledger/")[0].path).slice(0, 2)
    values = first.drop_columns(["step"])
    ledger.append(7, **{name: values[name].to_numpy() for name in values.column_names})
    extra = ledger.cut()
    assert extra is not None
    twice = commit(Path(training.root), "training/mimic", StageResult((*training.manifest.files, extra), {}))
    with pytest.raises(RunError, match="two scores for one visit"):
        gather(tmp_path, twice)


def test_more_samples_than_the_pool_has_is_an_error(tmp_path: Path) -> None:
    training, _ = train(tmp_path / "training")
    with pytest.raises(RunError, match="more samples were scored"):
        gather(tmp_path, training, usable=49)


def test_training_without_ledger_is_an_error(tmp_path: Path) -> None:
    training = commit(tmp_path / "training", "training/mimic", StageResult((), {}))
    with pytest.raises(RunError, match="recorded no scores"):
        gather(tmp_path, training)


def test_loss_measure_scores_minus_the_loss(tmp_path: Path) -> None:
    _, ledger = train(tmp_path / "training")
    table = ledger_gather.scored(ledger, "loss")
    assert table.column_names == ["uid_hi", "uid_lo", "visit", "step", "score", "rank", "z", "batch", "loss"]
    assert table["score"].to_numpy().tolist() == (-ledger["loss"].to_numpy()).tolist()


def test_frame_reads_only_wanted_columns_and_rows(tmp_path: Path) -> None:
    training, _ = train(tmp_path / "training")
    scores = gather(tmp_path, training)
    whole = pl.DataFrame(table_of(scores))
    frame = open_frame(scores)
    assert frame.collect().equals(whole)
    assert frame.select("score").collect().equals(whole.select("score"))
    best = frame.filter(pl.col("score") > 0.5).select("uid_lo", "rank")
    assert best.collect().equals(whole.filter(pl.col("score") > 0.5).select("uid_lo", "rank"))
    assert frame.head(7).collect().equals(whole.head(7))
    grouped = frame.group_by("uid_hi", "uid_lo").agg(pl.col("score").mean()).sort("uid_hi", "uid_lo")
    assert grouped.collect().height == 50


@pytest.mark.ray
def test_ray_gives_the_same_bytes_and_a_named_dataset_of_the_same_rows(tmp_path: Path, ray_engine: Engine) -> None:
    training, _ = train(tmp_path / "training")
    here = gather(tmp_path / "here", training)
    there = gather(tmp_path / "there", training, engine=ray_engine)
    assert here.manifest.content == there.manifest.content
    dataset = ray_engine.dataset(there, "bucket-", "mimic scores")
    assert dataset.name == "mimic scores"
    rows: Sequence[dict] = dataset.take_all()
    by_key = sorted(rows, key=lambda row: tuple(row[name] for name in ROWS))
    assert by_key == open_frame(there).collect().to_dicts()


def test_plan_grows_with_the_rows() -> None:
    plan = planned(128_000_000)
    assert plan.output.rows == 640_000_000
    assert 20e9 < plan.output.bytes < 30e9
    assert plan.partitions == 306 + 64


def test_plan_memory_of_a_task_is_that_of_a_bucket_with_all_visits_or_of_a_partition() -> None:
    assert planned(128_000_000).peak_task_bytes == TASK_BASE + 10_000_000 * MERGE_BYTES_PER_ROW  # 64 buckets
    assert planned(12_800_000_000).peak_task_bytes <= TASK_BASE + 10_000_000 * MERGE_BYTES_PER_ROW
    assert planned(2_000_000, visits=1).peak_task_bytes == TASK_BASE + 2_000_000 * 250


def planned(samples: int, visits: int = 5) -> StagePlan:
    inputs = {"pool": Size(samples, 1), "training": Size(samples * visits, 1)}
    return GatherStage(Config()).plan(inputs, RatesConfig().model_dump())
