"""How the command ends as a process: its exit code, whole output, and nothing of C++ destructors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def _ended(code: str) -> "subprocess.CompletedProcess[str]":
    """A process in which `main` is what the code says."""
    program = f"import atexit, sys\nfrom pipeline.cli import app\n{code}\napp.program([])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("0", 0), ("3", 3), ("143", 143), ("None", 0), ("'a word'", 1)],
)
def test_process_ends_with_the_code_of_its_command(ending: str, code: int) -> None:
    assert _ended(f"app.main = lambda arguments: sys.exit({ending})").returncode == code


def test_output_that_was_buffered_is_written_and_what_is_registered_for_the_end_is_run() -> None:
    ended = _ended(
        "def main(arguments):\n"
        "    atexit.register(print, 'registered')\n"
        "    print('x' * 100_000)\n"
        "    sys.exit(2)\n"
        "app.main = main"
    )
    assert ended.returncode == 2
    assert ended.stdout == "x" * 100_000 + "\nregistered\n"


def test_destructors_that_abort_do_not_change_the_code() -> None:
    """`abort` as an exit handler of C stands for them."""
    harm = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.__cxa_atexit(libc.abort, None, None)"
    plain = subprocess.run([sys.executable, "-c", harm], timeout=100)
    assert plain.returncode == -6  # the harm is one
    assert _ended(f"{harm}\napp.main = lambda arguments: sys.exit(0)").returncode == 0


def test_reader_that_went_away_is_no_error() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m pipeline.cli.app --help | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=100)
    assert "Traceback" not in ended.stderr
