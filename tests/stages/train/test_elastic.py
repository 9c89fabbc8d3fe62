"""The number of ranks changes between attempts: same batches, each sample scored once an epoch, values close."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.errors import RunError
from pipeline.progress import Reporter
from pipeline.storage import Storage
from stages.train import launch
from stages.train.checkpoint import Checkpoint, CheckpointStore
from stages.train.config import EffectiveBatch, TrainConfig
from stages.train.spec import TrainSpec
from stages.train.stage import loader_spec
from tests.stages.train.spawn import run_ranks
from tests.stages.train.test_ranks import refer_to, trained_by_loop
from tests.stages.train.test_stage import recipe
from tests.stages.train.tiny_pool import make_pool

ATTEMPTS = [(4, 2), (2, 3), (1, 1), (4, None)]
"""(ranks, steps after which they leave on a notice); checkpoints are planned at 3, 4, 6 and 8."""


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return recipe(
        method="mimic", epochs=2, batch_size=16, lanes=4, num_workers=4, min_workers=1, checkpoint_every=3,
        accumulation=2, temperature=EffectiveBatch(effective_batch=0.7), grad_clip=0.5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ends(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Checkpoint, pa.Table]]:
    """Last checkpoint and ledger of a training by four ranks throughout, and of one whose ranks come and go."""
    folder = tmp_path_factory.mktemp("elastic")
    pool, pool_path = make_pool(folder / "pool", [23, 17, 21])
    reference = refer_to(folder / "reference", config)
    found = {}
    for name, attempts in (("straight", [(4, None)]), ("elastic", ATTEMPTS)):
        spec = TrainSpec(
            config=config,
            seed=3,
            loader=loader_spec(config, pool, pool_path, 3),
            output=ArtifactWriter(str(folder / name), Storage()),
            name="training/mimic",
            reference=reference,
        )
        for size, leave_after in attempts:
            run_ranks(size, _attempt, folder, replace(spec, config=config.with_ranks(size)), leave_after)
        last = CheckpointStore(spec.output).latest()
        assert last is not None
        tables = [pq.read_table(folder / name / part.path) for part in last.ledger]
        keys = [(key, "ascending") for key in ("step", "uid_hi", "uid_lo")]
        found[name] = (last, pa.concat_tables(tables).sort_by(keys))
    return found


def _attempt(spec: TrainSpec, leave_after: int | None) -> None:
    trained_by_loop(spec, leave_after=leave_after)


def test_each_sample_is_scored_once_an_epoch_in_the_batch_of_an_undisturbed_run(
    ends: dict[str, tuple[Checkpoint, pa.Table]],
) -> None:
    straight, elastic = ends["straight"][1], ends["elastic"][1]
    assert straight.num_rows == 2 * (23 + 17 + 21)
    for column in ("step", "uid_hi", "uid_lo", "visit"):
        assert elastic[column].equals(straight[column]), column


def test_values_are_close_to_those_of_an_undisturbed_run(ends: dict[str, tuple[Checkpoint, pa.Table]]) -> None:
    straight, elastic = ends["straight"][1], ends["elastic"][1]
    for column in ("score", "loss", "weight"):
        expected = straight[column].to_numpy()
        np.testing.assert_allclose(elastic[column].to_numpy(), expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


def test_numbers_of_ranks_that_trained_are_on_record(ends: dict[str, tuple[Checkpoint, pa.Table]]) -> None:
    assert ends["straight"][0].world_sizes == [4]
    assert ends["elastic"][0].world_sizes == [4, 2, 1, 4]
    assert ends["elastic"][0].step == ends["straight"][0].step == 8


def test_parts_cover_the_steps_of_an_undisturbed_run(ends: dict[str, tuple[Checkpoint, pa.Table]]) -> None:
    stretches = [{part.path.split("/")[1] for part in ends[name][0].ledger} for name in ("straight", "elastic")]
    assert stretches[0] == stretches[1]


def test_fewer_ranks_take_more_pieces_of_the_same_size(config: TrainConfig) -> None:
    for size in (1, 2, 4):
        taken = config.with_ranks(size)
        assert config.batch_size // size // taken.accumulation == 2
    assert config.world_sizes == [4, 2, 1]
    assert config.model_copy(update={"min_workers": None}).world_sizes == [4]
    assert recipe(num_workers=8, lanes=8, batch_size=16, min_workers=3).world_sizes == [8, 4]


def test_fewest_above_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"min_workers \(2\) is above num_workers \(1\)"):
        recipe(min_workers=2)


class _Room(Engine):
    """A cluster with room for so many ranks; remembers how long was waited for how many."""

    def __init__(self, room: int) -> None:
        super().__init__(ClusterConfig(wait_for_nodes_seconds=300.0), Reporter())
        self.room, self.asked = room, list[tuple[int, float | None]]()

    def await_room(self, bundles: list[dict[str, float]], name: str, *, seconds: float | None = None) -> None:  # type: ignore[override]
        self.asked.append((len(bundles), seconds))
        if len(bundles) > self.room:
            raise RunError("the cluster has no room for this", where=name)


@pytest.mark.parametrize(
    ("room", "size", "asked"),
    [(9, 4, [(4, 60.0)]), (3, 2, [(4, 60.0), (2, 0.0)]), (1, 1, [(4, 60.0), (2, 0.0), (1, None)])],
)
def test_as_many_ranks_train_as_there_is_room_for(
    room: int, size: int, asked: list[tuple[int, float | None]], config: TrainConfig, tmp_path: Path
) -> None:
    spec = TrainSpec(config, 0, None, ArtifactWriter(str(tmp_path), Storage()), "training/x")  # type: ignore[arg-type]
    engine = _Room(room)
    assert launch._world_size(spec, engine, engine.reporter) == size
    assert engine.asked == asked


def test_less_room_than_for_the_fewest_is_an_error(config: TrainConfig, tmp_path: Path) -> None:
    fewest = config.model_copy(update={"min_workers": 2})
    spec = TrainSpec(fewest, 0, None, ArtifactWriter(str(tmp_path), Storage()), "training/x")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="no room"):
        launch._world_size(spec, _Room(1), Reporter())
