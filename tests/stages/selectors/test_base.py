from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from pipeline.artifact import Artifact
from pipeline.config_base import Config
from pipeline.engine import Engine
from pipeline.errors import RunError
from pipeline.rates import RatesConfig
from pipeline.schema import SCORES
from pipeline.stage import Size
from stages.selectors.base import Partition, Partitions, Scores, SelectorStage
from tests.stages.selectors.score_tables import by_number, run
from tests.stages.train.tiny_pool import make_pool


class FarthestConfig(Config):
    """How far a sample's caption length is from the pool's mean."""

    kind: Literal["farthest"] = "farthest"


class Farthest(SelectorStage[FarthestConfig]):
    """A selector that must see the whole pool before it can score a part of it."""

    def fit(self, partitions: Partitions) -> float:
        sums = partitions.map(partial(_sums, "text_len"))
        return sum(total for total, _ in sums) / sum(count for _, count in sums)

    def score(self, partition: Partition, state: Any) -> Scores:
        table = partition.read(["uid_hi", "uid_lo", "text_len"])
        distance = np.abs(table["text_len"].to_numpy().astype(np.float32) - np.float32(state))
        return Scores(table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy(), distance)


class Broken(SelectorStage[FarthestConfig]):
    """Gives what no selector may give."""

    def score(self, partition: Partition, state: Any) -> Scores:
        table = partition.read(["uid_hi", "uid_lo"])
        score = np.where(table["uid_lo"].to_numpy() == 5, np.float32(np.nan), np.float32(1))
        return Scores(table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy(), score)


class Odd(SelectorStage[FarthestConfig]):
    """Scores every other sample."""

    def score(self, partition: Partition, state: Any) -> Scores:
        table = partition.read(["uid_hi", "uid_lo"])
        table = table.filter(table["uid_lo"].to_numpy() % 2 == 1)
        return Scores(table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy(), np.ones(table.num_rows, np.float32))


def _sums(column: str, partition: Partition) -> tuple[int, int]:
    values = partition.read([column])[column].to_numpy()
    return int(values.sum()), len(values)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_pool(tmp_path_factory.mktemp("pool"), [8, 7])[0]


def test_fit_sees_the_whole_pool_and_score_each_part(pool: Artifact, tmp_path: Path) -> None:
    scores = run(Farthest(FarthestConfig(), name="far", pool_path=""), tmp_path, pool)
    lengths = {n: len(f"a plain square number {n}") for n in range(15)}
    mean = sum(lengths.values()) / 15
    assert by_number(scores) == {n: pytest.approx(abs(length - mean), rel=1e-5) for n, length in lengths.items()}
    assert scores.summary == {
        "selector": "far", "visits": 1, "rows": 15, "scored": 15, "usable": 15, "coverage": 1.0, "bucket_bits": 2,
        "batched": False,
    }  # fmt: skip


def test_samples_without_score_are_left_out_and_counted(pool: Artifact, tmp_path: Path) -> None:
    scores = run(Odd(FarthestConfig(), name="odd", pool_path=""), tmp_path, pool)
    assert sorted(by_number(scores)) == [1, 3, 5, 7, 9, 11, 13]
    assert scores.manifest.counts is not None
    assert scores.manifest.counts.dropped == {"no score": 8}
    assert scores.summary["coverage"] == pytest.approx(7 / 15)


def test_score_that_is_not_finite_names_selector_and_sample(pool: Artifact, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="selector bad") as error:
        run(Broken(FarthestConfig(), name="bad", pool_path=""), tmp_path, pool)
    assert "0000000000000005" in str(error.value)
    assert "nan" in str(error.value)


def test_plan_is_one_score_a_sample(pool: Artifact) -> None:
    stage = Farthest(FarthestConfig(), name="far", pool_path="")
    plan = stage.plan({"pool": Size(128_000_000, 1)}, RatesConfig().model_dump())
    assert plan.output.rows == 128_000_000
    assert plan.peak_task_bytes < 1 << 30
    assert stage.gives is SCORES


@pytest.mark.ray
def test_ray_gives_the_same_bytes(pool: Artifact, tmp_path: Path, ray_engine: Engine) -> None:
    from stages.selectors.clip_score import ClipScoreConfig, ClipScoreSelector

    config = ClipScoreConfig(kind="clip_score", column="words")
    here = run(ClipScoreSelector(config, name="x", pool_path=""), tmp_path / "here", pool)
    there = run(ClipScoreSelector(config, name="x", pool_path=""), tmp_path / "there", pool, engine=ray_engine)
    assert here.manifest.content == there.manifest.content
