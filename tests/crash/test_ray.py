"""Ray's processes are killed while two ranks train: the training heals itself, or the same command goes on."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.scenes import (
    content,
    copy_until,
    crash_at,
    finish,
    kill_session,
    run,
    session_processes,
    start,
    states,
    wait_for,
    wait_until,
)
from tests.long_runs import long_runs

pytestmark = long_runs("make chaos", seconds=1800)
ON_RAY = ("cluster.executor=ray", "evaluate=off")
TWO_RANKS = (
    *ON_RAY,
    "reference.base.epochs=1",
    "reference.tune.epochs=1",
    "train.num_workers=2",
    "train.batch_size=16",
    "train.checkpoint_every=20",  # of 64 steps: checkpoints at 20, 32 (an epoch's end), 40, 60 and 64
    "--until",
    "train",
)
CHECKPOINTS = "store/training/mimic/*/checkpoints"


@pytest.fixture(scope="session")
def two_ranks(workplace: Path) -> Path:
    """An undisturbed training by two ranks."""
    output = workplace / "runs" / "two_ranks"
    ended = run(workplace, output, TWO_RANKS)
    assert ended.code == 0, ended.shown
    return output


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid, line in session_processes(process.pid) if line.startswith("ray::RayTrainWorker")]


def raylets_of(process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid, line in session_processes(process.pid) if "/raylet/raylet" in line.split(" ", 1)[0]]


VICTIMS: dict[str, Callable[[subprocess.Popen[str]], list[int]]] = {
    "driver": lambda process: [process.pid],
    "rank": lambda process: ranks_of(process)[:1],
    "all ranks": ranks_of,
    "raylet": raylets_of,
}
MOMENTS: dict[str, Callable[[subprocess.Popen[str], Path], bool]] = {
    "before the first checkpoint": lambda process, _: wait_until(
        lambda: len(ranks_of(process)) == 2, process, "two ranks"
    ),
    "in a checkpoint": lambda process, output: wait_for(output, f"{CHECKPOINTS}/*/weights-*", process, number=2),
    "between checkpoints": lambda process, output: wait_for(output, f"{CHECKPOINTS}/*/manifest-*", process, number=3),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_training_whose_processes_are_killed_ends_in_the_same_bytes(
    victim: str, moment: str, workplace: Path, two_ranks: Path
) -> None:
    """A driver that was killed leaves its ranks behind: those that still write while it is run again do no harm."""
    output = workplace / "runs" / f"{victim} killed {moment}".replace(" ", "_")
    copy_until(two_ranks, output, "training/mimic")
    process = start(workplace, output, TWO_RANKS)
    try:
        assert MOMENTS[moment](process, output)
        victims = VICTIMS[victim](process)
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        ended = finish(process, workplace, output)
        if victim in ("rank", "all ranks"):
            assert ended.code == 0, ended.shown  # healed without anybody's help
            # A rank that dies while the group of ranks is still being formed is replaced, and told of, by Ray itself.
            told = ("starting again on the nodes that there are", "A worker died or was killed")
            assert any(words in ended.shown for words in told[: 1 + (moment == "before the first checkpoint")])
        else:
            assert ended.code != 0
            assert "Traceback" not in ended.shown
            # A dead driver says nothing; of its dead cluster the run tells before Ray ends it without a word.
            assert ("error: the Ray cluster is gone" in ended.shown) == (victim == "raylet")
            resumed = run(workplace, output, TWO_RANKS)
            assert resumed.code == 0, resumed.shown
    finally:
        kill_session(process.pid)
    assert content(output, "training/mimic") == content(two_ranks, "training/mimic")
    assert content(output, "scores/mimic") == content(two_ranks, "scores/mimic")


@pytest.mark.parametrize(
    "point",
    [
        "after */training/mimic/*/step-000000020/weights-*",
        "before */training/mimic/*/step-000000032/manifest-*",
        "after */training/mimic/*/step-000000040/manifest-*",
        "before */training/mimic/*/ledger/steps-000000020-*",
        "staged */training/mimic/*/ledger/steps-000000032-*",
        "after */training/mimic/*/ledger/steps-000000040-*",
    ],
)
def test_rank_that_dies_once_in_the_middle_of_a_write_is_replaced(point: str, workplace: Path, two_ranks: Path) -> None:
    name = "".join(character if character.isalnum() else "-" for character in point)
    output = workplace / "runs" / name
    copy_until(two_ranks, output, "training/mimic")
    ended = run(workplace, output, TWO_RANKS, crash_at(point, workplace / f"latch-{name}"))
    assert (workplace / f"latch-{name}").exists()
    assert ended.code == 0, ended.shown
    assert "a rank was lost" in ended.shown
    assert content(output, "training/mimic") == content(two_ranks, "training/mimic")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_run_with_ranks_that_is_told_to_end_says_so_and_goes_on_afterwards(
    number: signal.Signals, code: int, workplace: Path, two_ranks: Path
) -> None:
    output = workplace / "runs" / f"ranks_told_{code}"
    copy_until(two_ranks, output, "training/mimic")
    process = start(workplace, output, TWO_RANKS)
    try:
        assert wait_for(output, f"{CHECKPOINTS}/*/manifest-*", process)
        os.kill(process.pid, number)
        ended = finish(process, workplace, output)
    finally:
        kill_session(process.pid)
    assert ended.code == code, ended.shown
    assert "the same command goes on from here" in ended.shown
    assert "Traceback" not in ended.shown
    assert states(output)["training/mimic"] == "failed"
    resumed = run(workplace, output, TWO_RANKS)
    assert resumed.code == 0, resumed.shown
    assert content(output, "training/mimic") == content(two_ranks, "training/mimic")


def test_data_task_whose_worker_dies_once_is_tried_again(workplace: Path, wanted: dict[str, object]) -> None:
    output = workplace / "runs" / "pool_worker_dies"
    point = crash_at("before */store/pool/*/index/*", workplace / "pool-latch")
    ended = run(workplace, output, (*ON_RAY, "--until", "pool"), point)
    assert (workplace / "pool-latch").exists()
    assert ended.code == 0, ended.shown
    assert content(output, "pool") == wanted["pool content"]
