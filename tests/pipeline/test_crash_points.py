"""The hook that ends a process at a chosen write, and nothing when it is not asked to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.crash_points import CRASH_AT, CRASH_LATCH, EXIT_CODE

_WRITE = """
import sys
from pipeline.storage import Storage
for name in sys.argv[2:]:
    Storage().put(f"{sys.argv[1]}/{name}", name.encode())
"""


def _write(folder: Path, *names: str, **extra: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **extra}
    return subprocess.run([sys.executable, "-c", _WRITE, str(folder), *names], env=environment, timeout=60).returncode


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(("moment", "left"), [("before", []), ("staged", []), ("after", ["b"])])
def test_process_ends_at_the_moment_that_is_asked_for(tmp_path, moment, left):
    assert _write(tmp_path, "b", "c", **{CRASH_AT: f"{moment} */b"}) == EXIT_CODE
    assert _names(tmp_path) == left


def test_process_ends_at_the_nth_write_that_matches(tmp_path):
    assert _write(tmp_path, "a1", "b", "a2", "a3", **{CRASH_AT: "before */a* 2"}) == EXIT_CODE
    assert _names(tmp_path) == ["a1", "b"]


def test_staged_write_leaves_its_bytes_under_a_hidden_name_only(tmp_path):
    assert _write(tmp_path, "a", **{CRASH_AT: "staged */a"}) == EXIT_CODE
    (hidden,) = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden.read_bytes() == b"a"


def test_latch_lets_one_process_die_and_no_other(tmp_path):
    wish = {CRASH_AT: "before */a", CRASH_LATCH: str(tmp_path / "latch")}
    folder = tmp_path / "folder"
    folder.mkdir()
    assert _write(folder, "a", **wish) == EXIT_CODE
    assert _write(folder, "a", **wish) == 0
    assert _names(folder) == ["a"]


def test_nothing_ends_without_being_asked_to(tmp_path):
    assert _write(tmp_path, "a", "b") == 0
    assert _names(tmp_path) == ["a", "b"]
