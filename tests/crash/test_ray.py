"""Ray's processes are killed while two ranks train: the training heals itself, or the same command goes on."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from pipeline.run_record import open_artifacts
from pipeline.storage import Storage
from tests.crash.scenes import ORDER, RAY, crash_at, finish, kill_session, run, session_processes, start, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif("GRADSIEVE_FULL_MATRIX" not in os.environ, reason="minutes a case: make chaos runs it"),
]
TWO_RANKS = (*RAY, "train.num_workers=2", "--until", "train")


@pytest.fixture(scope="session")
def two_ranks(workplace: Path) -> Path:
    """An undisturbed training by two ranks."""
    output = workplace / "runs" / "two_ranks"
    ended = run(workplace, output, TWO_RANKS)
    assert ended.code == 0, ended.shown
    return output


def _content(output: Path) -> str:
    return open_artifacts(str(output), Storage())["training/mimic"].manifest.content


def _untrained(two_ranks: Path, output: Path) -> None:
    for name in ORDER[: ORDER.index("training/mimic")]:
        if (two_ranks / "store" / name).is_dir():
            shutil.copytree(two_ranks / "store" / name, output / "store" / name)


@pytest.mark.parametrize("victim", ["driver", "rank", "all ranks", "raylet"])
def test_training_whose_processes_are_killed_ends_in_the_same_bytes(
    victim: str, workplace: Path, two_ranks: Path
) -> None:
    output = workplace / "runs" / f"killed_{victim.replace(' ', '_')}"
    _untrained(two_ranks, output)
    process = start(workplace, output, TWO_RANKS)
    try:
        assert wait_for(output, "store/training/mimic/*/checkpoints/*/manifest-*", process)
        others = session_processes(process.pid)
        ranks = [pid for pid, line in others if line.startswith("ray::RayTrainWorker")]
        raylets = [pid for pid, line in others if "/raylet/raylet" in line.split(" ", 1)[0]]
        assert len(ranks) == 2
        for pid in {"driver": [process.pid], "rank": ranks[:1], "all ranks": ranks, "raylet": raylets}[victim]:
            os.kill(pid, signal.SIGKILL)
        code = finish(process, workplace, output).code
    finally:
        kill_session(process.pid)
    if victim in ("rank", "all ranks"):
        assert code == 0  # healed without anybody's help
    else:
        assert code != 0
        resumed = run(workplace, output, TWO_RANKS)
        assert resumed.code == 0, resumed.shown
    assert _content(output) == _content(two_ranks)


def test_rank_that_dies_once_in_the_middle_of_a_checkpoint_is_replaced(workplace: Path, two_ranks: Path) -> None:
    output = workplace / "runs" / "dies_in_checkpoint"
    _untrained(two_ranks, output)
    point = crash_at("after */training/mimic/*/step-000000010/weights-*", workplace / "latch")
    ended = run(workplace, output, TWO_RANKS, point)
    assert (workplace / "latch").exists()
    assert ended.code == 0, ended.shown
    assert _content(output) == _content(two_ranks)


def test_data_task_whose_worker_dies_once_is_tried_again(workplace: Path, wanted: dict[str, object]) -> None:
    output = workplace / "runs" / "pool_worker_dies"
    point = crash_at("before */store/pool/*/index/*", workplace / "pool-latch")
    ended = run(workplace, output, (*RAY, "--until", "pool"), point)
    assert (workplace / "pool-latch").exists()
    assert ended.code == 0, ended.shown
    assert open_artifacts(str(output), Storage())["pool"].manifest.content == wanted["pool content"]
