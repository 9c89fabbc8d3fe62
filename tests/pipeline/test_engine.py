"""The seam to Ray: same results in order, with and without Ray; errors arrive as they were raised."""

import os
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.artifact import Artifact, ArtifactWriter, Manifest
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig, RoleConfig
from pipeline.errors import RunError, UserError
from pipeline.progress import Reporter
from pipeline.storage import Storage


def _square(item: int, offset: int = 0) -> int:
    time.sleep(0.02 * (item % 3))  # later items finish before earlier ones
    return item * item + offset


def _fail_at(item: int, bad: int) -> int:
    if item == bad:
        raise UserError("broken shard", where=f"shard {item}", expected="a tar", found="gzip", next_step="unpack it")
    return item


def _crash_at(item: int) -> int:
    if item == 2:
        raise ZeroDivisionError("a defect")
    return item


def _pid(_: int) -> int:
    return os.getpid()


def _in_process() -> Engine:
    return Engine(ClusterConfig(executor="in_process"), Reporter())


@pytest.mark.ray
def test_map_on_ray_equals_map_in_process_in_the_order_of_items(ray_engine: Engine) -> None:
    task = partial(_square, offset=3)
    expected = [item * item + 3 for item in range(17)]
    assert ray_engine.map(task, range(17), name="squares") == expected
    assert _in_process().map(task, range(17), name="squares") == expected


@pytest.mark.ray
def test_map_on_ray_runs_outside_this_process(ray_engine: Engine) -> None:
    assert os.getpid() not in ray_engine.map(_pid, range(4), name="where")
    assert set(_in_process().map(_pid, range(4), name="where")) == {os.getpid()}


@pytest.mark.ray
def test_tasks_run_side_by_side_from_the_first_on(ray_engine: Engine, tmp_path: Path) -> None:
    meet = partial(_meet, str(tmp_path))
    assert ray_engine.map(meet, [(0, 1), (1, 0)], name="meeting") == [True, True]


@pytest.mark.ray
def test_user_error_of_a_task_arrives_whole_and_unwrapped(ray_engine: Engine) -> None:
    for engine in (ray_engine, _in_process()):
        with pytest.raises(UserError) as caught:
            engine.map(partial(_fail_at, bad=3), range(6), name="broken")
        for part in ("broken shard", "shard 3", "a tar", "gzip", "unpack it"):
            assert part in str(caught.value)


@pytest.mark.ray
def test_defect_of_a_task_names_the_stage_and_the_cause(ray_engine: Engine) -> None:
    for engine in (ray_engine, _in_process()):
        with pytest.raises(RunError, match="a task of crashing failed") as caught:
            engine.map(_crash_at, range(4), name="crashing")
        assert "where: 2" in str(caught.value)
        assert "ZeroDivisionError: a defect" in str(caught.value)


def test_map_of_nothing_is_nothing_and_starts_nothing() -> None:
    assert Engine(ClusterConfig(address="ray://nowhere:1"), Reporter()).map(_square, [], name="none") == []


def test_on_one_node_gives_the_single_result() -> None:
    assert _in_process().on_one_node(_square, 5, name="one", role=RoleConfig()) == 25


@pytest.mark.ray
def test_dataset_of_an_artifact_has_the_rows_that_the_manifest_lists(ray_engine: Engine, tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    tables = [pa.table({"uid_hi": pa.array([2**63 + b, b], pa.uint64())}) for b in range(3)]
    entries = tuple(writer.put_table(f"bucket-{b:05d}.parquet", table) for b, table in enumerate(tables))
    writer.put_table("bucket-00009.parquet", tables[0])  # there, but not listed
    artifact = Artifact(str(tmp_path), Manifest("scores/x", "", {}, entries, {}), Storage())
    dataset = ray_engine.dataset(artifact, "bucket-", "scores_x")
    assert sorted(row["uid_hi"] for row in dataset.take_all()) == [0, 1, 2, 2**63, 2**63 + 1, 2**63 + 2]


def test_ray_auth_mode_is_set_before_ray_starts(ray_engine: Engine) -> None:
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_error_parts_survive_pickling() -> None:
    import pickle

    error = RunError("what", where="s3://b/k", expected=3, found=["a"], next_step="do")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is RunError
    assert str(copy) == str(error)


@pytest.mark.ray
def test_map_of_more_items_than_blocks_gives_each_its_result(
    ray_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine._MOST_BLOCKS", 3)
    assert ray_engine.map(_square, range(8), name="few blocks") == [n * n for n in range(8)]


def _meet(folder: str, who: tuple[int, int]) -> bool:
    """Whether the other task came while this one waited."""
    mine, other = who
    Path(folder, str(mine)).touch()
    for _ in range(600):
        if Path(folder, str(other)).exists():
            return True
        time.sleep(0.05)
    return False
