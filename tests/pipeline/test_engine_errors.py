"""What Ray's errors become: a full object store, no memory, nothing that moves; in words, with the next step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import NodeDiedError, ObjectStoreFullError, OutOfDiskError, OutOfMemoryError, RayTaskError

from pipeline import engine_errors
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.engine_errors import died_each_time, first_line, refuse_hopeless, start_errors_named
from pipeline.errors import GradsieveError, RunError
from pipeline.progress import Reporter
from tests.pipeline.big_run import RESULT

ROOT = Path(__file__).parents[2]


def in_a_task(cause: Exception) -> Exception:
    """As Ray hands it to the driver: both an error of a task and its cause."""
    return RayTaskError("Map(_Call)", "Traceback", cause).as_instanceof_cause()


@pytest.mark.parametrize("error", [ObjectStoreFullError("no room"), OutOfDiskError("Local disk is full")])
def test_full_object_store_says_what_to_raise_or_to_free(error: Exception) -> None:
    for raised in (error, in_a_task(error)):
        with pytest.raises(RunError, match="Ray's object store is full") as told:
            refuse_hopeless(raised, "gather scores")
        assert told.value.parts["where"] == "gather scores"
        assert "cluster.object_store_memory" in str(told.value)
        assert "the same command goes on" in str(told.value)
        assert "_Call" not in str(told.value)


STALLED = ExecutionTimeoutError("Dataset execution made no progress for at least 60s\nOperators still running:")


def test_stage_that_does_not_move_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_errors, "_disk_full", lambda: False)
    with pytest.raises(RunError, match=r"(?s)reshard made no progress.*stalled_after_seconds.*ray status"):
        refuse_hopeless(STALLED, "reshard")


def test_stage_that_does_not_move_because_the_disk_is_full_says_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_errors, "_disk_full", lambda: True)
    with pytest.raises(RunError, match="object store is full"):
        refuse_hopeless(STALLED, "reshard")


@pytest.mark.ray
def test_lost_node_is_no_reason_to_give_up_while_the_cluster_lives(ray_engine: Engine) -> None:
    refuse_hopeless(NodeDiedError("node 3 is gone"), "reshard")
    assert not engine_errors._disk_full()


def test_partition_that_fits_no_memory_is_told_apart_from_one_at_which_workers_crash() -> None:
    memory = died_each_time(OutOfMemoryError("1 worker(s) were killed\nand more"), "pool", "shard-7.tar", 3)
    assert str(memory).startswith("memory ran out each time a worker of pool")
    assert memory.parts["found"] == "1 worker(s) were killed"
    crash = died_each_time(NodeDiedError("it crashed"), "pool", "shard-7.tar", 3)
    assert "a worker of pool died each time" in str(crash)
    assert "at most 3 deaths" in str(crash)
    assert memory.parts["where"] == crash.parts["where"] == "shard-7.tar"


@pytest.mark.parametrize(
    ("address", "hint"), [(None, "cluster.executor=in_process"), ("10.0.0.9:6379", "cluster.auth_mode")]
)
def test_ray_that_does_not_start_is_told_with_the_next_step(address: str | None, hint: str) -> None:
    def start() -> None:
        with start_errors_named(address):
            raise Exception("The current node timed out during startup.\nThis could happen because")  # as Ray does

    with pytest.raises(GradsieveError, match="timed out during startup") as told:
        start()
    assert hint in str(told.value)
    assert "This could happen" not in str(told.value)


def test_first_line_of_an_error_without_text_is_its_kind() -> None:
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("\n one\n two")) == "one"


def _too_much(item: str) -> str:
    raise MemoryError(f"Unable to allocate 3.1 TiB for {item}")


def test_task_that_runs_out_of_memory_names_its_input() -> None:
    engine = Engine(ClusterConfig(executor="in_process"), Reporter())
    with pytest.raises(RunError, match=r"(?s)memory ran out in a task of pool.*shard-1\.tar.*3\.1 TiB"):
        engine.map(_too_much, ["shard-1.tar"], name="pool")


@pytest.mark.ray
@pytest.mark.slow
def test_results_that_fill_the_object_store_end_the_run_in_words_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Ray takes a disk for full at a share of its space; a share of nothing needs no disk that is full."""
    full = _big_run(tmp_path, RAY_local_fs_capacity_threshold="0")
    assert full.returncode == 1, full.stdout + full.stderr
    assert "Ray's object store is full" in full.stdout
    assert "cluster.object_store_memory" in full.stdout
    assert "Traceback" not in full.stdout + full.stderr
    states = json.loads((tmp_path / "out/run.json").read_text())["stages"]
    assert {name: stage["state"] for name, stage in states.items()} == {"numbers": "done", "big": "failed"}
    resumed = _big_run(tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert resumed.stdout.split()[-2:] == [str(RESULT), str(RESULT)]
    states = json.loads((tmp_path / "out/run.json").read_text())["stages"]
    assert {name: stage["state"] for name, stage in states.items()} == {"numbers": "reused", "big": "done"}


def _big_run(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.pipeline.big_run", str(folder)]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", **environment}
    return subprocess.run(command, env=own, cwd=ROOT, capture_output=True, text=True, timeout=280)
