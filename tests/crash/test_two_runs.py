"""Two runs on one output: refused, waiting, or both at once with the lease off; told to end; the disk is full."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.lease import SWITCH
from pipeline.run_record import open_artifacts
from pipeline.storage import Storage
from tests.crash.scenes import IN_PROCESS, copy_store, finish, result, run, start, states, wait_for

pytestmark = pytest.mark.slow


def test_second_run_is_refused_and_a_third_one_waits(
    workplace: Path, undisturbed: Path, wanted: dict[str, object]
) -> None:
    output = workplace / "runs" / "shared"
    copy_store(undisturbed, output, "x/store/training/mimic/x")
    first = start(workplace, output, IN_PROCESS)
    assert wait_for(output, "run.json", first)
    refused = run(workplace, output, IN_PROCESS)
    assert refused.code == 3, refused.shown
    assert "another run is writing here" in refused.shown
    waiting = start(workplace, output, (*IN_PROCESS, "--wait"))
    assert finish(first, workplace, output).code == 0
    assert finish(waiting, workplace, output).code == 0
    assert set(states(output).values()) == {"reused"}
    assert result(output) == wanted


def test_two_runs_at_once_without_a_lease_end_in_one_consistent_result(
    workplace: Path, undisturbed: Path, wanted: dict[str, object]
) -> None:
    output = workplace / "runs" / "contested"
    copy_store(undisturbed, output, "x/store/training/mimic/x")
    both = [start(workplace, output, IN_PROCESS, {SWITCH: "off"}) for _ in range(2)]
    ended = [finish(process, workplace, output) for process in both]
    assert {end.code for end in ended} <= {0, 1}
    assert "Traceback" not in ended[0].shown
    again = run(workplace, output, IN_PROCESS)
    assert again.code == 0, again.shown
    assert result(output) == wanted
    for artifact in open_artifacts(str(output), Storage()).values():
        for file in artifact.files():
            artifact.read_bytes(file.path)  # checked against its digest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_run_that_is_told_to_end_says_so_and_goes_on_afterwards(
    number: signal.Signals, code: int, workplace: Path, undisturbed: Path, wanted: dict[str, object]
) -> None:
    output = workplace / "runs" / f"told_{code}"
    copy_store(undisturbed, output, "x/store/training/mimic/x")
    process = start(workplace, output, IN_PROCESS)
    assert wait_for(output, "store/training/mimic/*/checkpoints/*/manifest-*", process)
    os.kill(process.pid, number)
    ended = finish(process, workplace, output)
    assert ended.code == code, ended.shown
    assert "the same command goes on from here" in ended.shown
    assert "Traceback" not in ended.shown
    assert states(output)["training/mimic"] == "failed"
    assert run(workplace, output, IN_PROCESS).code == 0
    assert result(output) == wanted


def test_full_disk_is_told_by_name_and_the_run_goes_on_once_there_is_room(
    workplace: Path, wanted: dict[str, object]
) -> None:
    output = workplace / "runs" / "small_disk"
    output.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(output)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {mounted.stderr.strip()}")
    try:
        full = run(workplace, output)
        assert full.code == 1, full.shown
        assert "no space left on device" in full.shown
        assert "Traceback" not in full.shown
        subprocess.run(["mount", "-o", "remount,size=2g", str(output)], check=True)
        resumed = run(workplace, output)
        assert resumed.code == 0, resumed.shown
        assert result(output) == wanted
    finally:
        subprocess.run(["umount", str(output)], check=True)


def test_read_only_output_is_told_by_name(workplace: Path) -> None:
    output = workplace / "runs" / "read_only"
    output.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(output)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        refused = run(workplace, output)
        assert refused.code == 2, refused.shown
        assert "cannot be written" in refused.shown
        assert "Traceback" not in refused.shown
    finally:
        subprocess.run(["umount", str(output)], check=True)
