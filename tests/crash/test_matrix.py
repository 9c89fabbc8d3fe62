"""A run that is killed at any write, and run again, ends in the bytes of an undisturbed one."""

import shutil
from pathlib import Path

import pytest

from tests.crash.matrix import FULL, QUICK
from tests.crash.scenes import crash_then_resume, num_scored, result
from tests.long_runs import only_in

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", QUICK)
def test_run_killed_at_a_write_ends_in_the_bytes_of_an_undisturbed_one(
    name: str, workplace: Path, undisturbed: Path, wanted: dict[str, object]
) -> None:
    output = crash_then_resume(workplace, name, QUICK[name], since=undisturbed)
    assert result(output) == wanted
    assert num_scored(output) == num_scored(undisturbed)
    shutil.rmtree(output)  # half a gigabyte of checkpoints; kept where anything differed


@only_in("make chaos")
@pytest.mark.parametrize("name", FULL)
def test_run_killed_at_any_write_of_any_stage_ends_in_the_bytes_of_an_undisturbed_one(
    name: str, workplace: Path, undisturbed: Path, wanted: dict[str, object]
) -> None:
    output = crash_then_resume(workplace, name.replace(" ", "_").replace("/", "-"), FULL[name], since=undisturbed)
    assert result(output) == wanted
    shutil.rmtree(output)
