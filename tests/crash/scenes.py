"""Run, kill, run again: the tiny configuration in a process of its own, and what it must end in."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.crash_points import CRASH_AT, CRASH_LATCH, EXIT_CODE
from pipeline.run_record import open_artifacts
from pipeline.storage import Storage

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/configs/tiny.yaml"
IN_PROCESS = ("cluster.executor=in_process", "evaluate=off", "train.checkpoint_every=5")
RAY = ("cluster.executor=ray", "evaluate=off", "train.checkpoint_every=5")
TIMEOUT = 600
"""Seconds after which a run counts as hanging; machines that are shared can be slow."""

DELIVERABLES = ("subset", "shards")


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    shown: str


def command(output: Path, overrides: Sequence[str]) -> list[str]:
    """The command line that a user would type."""
    return [sys.executable, "-m", "pipeline.cli.app", "run", str(TINY), f"output={output}", *overrides]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """One thread, no authentication, the sources of this checkout."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    return {**os.environ, **own, **(extra or {})}


def start(
    workplace: Path, output: Path, overrides: Sequence[str], extra: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a run in a session of its own, so that all its processes can be told from others."""
    log = workplace / f"{output.name}.log"
    with log.open("a") as sink:
        return subprocess.Popen(
            command(output, overrides),
            cwd=workplace,
            env=environment(extra),
            stdout=sink,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[str], workplace: Path, output: Path, *, timeout: float = TIMEOUT) -> Ended:
    """Wait for a run; one that hangs is killed with all its processes and fails the test."""
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return Ended(code, (workplace / f"{output.name}.log").read_text())


def run(
    workplace: Path, output: Path, overrides: Sequence[str] = IN_PROCESS, extra: Mapping[str, str] | None = None
) -> Ended:
    """A run from its start to its end."""
    return finish(start(workplace, output, overrides, extra), workplace, output)


def crash_at(point: str, latch: Path | None = None) -> dict[str, str]:
    """Environment that ends a process at a point, see `pipeline.crash_points`."""
    return {CRASH_AT: point, **({CRASH_LATCH: str(latch)} if latch else {})}


def crash_then_resume(
    workplace: Path, name: str, point: str, *, since: Path | None = None, overrides: Sequence[str] = IN_PROCESS
) -> Path:
    """A run that dies at a point, and the same command again; the output.

    Args:
        workplace: holds `pool/`.
        name: of the new output.
        point: where the process ends.
        since: a finished run whose store is taken over, see `copy_store`, to save time.
        overrides: of the configuration.
    """
    output = workplace / "runs" / name
    if since is not None:
        copy_store(since, output, point.split()[1])
    died = run(workplace, output, overrides, crash_at(point))
    assert died.code == EXIT_CODE, f"the point {point} was not reached: {died.code}\n{died.shown}"
    resumed = run(workplace, output, overrides)
    assert resumed.code == 0, resumed.shown
    return output


ORDER = (
    "pool",
    "subset_trusted",
    "training/base",
    "training/tuned",
    "reference",
    "training/mimic",
    "scores",
    "votes",
    "decisions",
)


def copy_store(finished: Path, output: Path, glob: str) -> None:
    """Copy the artifacts of all stages that come before the one that a glob speaks of.

    For the first stage, the pool, those behind it: they are found again if its content is the same, and only then.
    """
    for name in ORDER:
        if f"/store/{name}/" in glob or f"/store/entries/{name}/" in glob:
            if name == "pool":
                continue
            return
        if (finished / "store" / name).is_dir():
            shutil.copytree(finished / "store" / name, output / "store" / name)


def copy_until(finished: Path, output: Path, name: str) -> None:
    """Copy the artifacts of all stages that come before one of `ORDER`."""
    for before in ORDER[: ORDER.index(name)]:
        if (finished / "store" / before).is_dir():
            shutil.copytree(finished / "store" / before, output / "store" / before)


def content(output: Path, name: str) -> str:
    """Digest of what is in an artifact."""
    return open_artifacts(str(output), Storage())[name].manifest.content


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that is not hidden, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def result(output: Path) -> dict[str, object]:
    """What must not depend on any crash: bytes of subset and shards, content of all scores, votes and decisions."""
    found: dict[str, object] = {name: digests(output / name) for name in DELIVERABLES}
    artifacts = open_artifacts(str(output), Storage())
    for name, artifact in artifacts.items():
        if name.startswith("scores/") or name in ("pool", "votes", "decisions", "subset", "shards"):
            found[f"{name} content"] = artifact.manifest.content
    return found


def num_scored(output: Path) -> dict[str, int]:
    """Rows of every score table: a replayed step that counted twice would add some."""
    artifacts = open_artifacts(str(output), Storage())
    return {
        name: sum(f.rows for f in a.files("bucket-")) for name, a in artifacts.items() if name.startswith("scores/")
    }


def session_processes(session: int) -> list[tuple[int, str]]:
    """(pid, command line) of the living processes of a session: what a run started, Ray's processes included."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append((int(folder.name), line))
    return found


def kill_session(session: int) -> None:
    """Kill what is left of a run, and nothing else."""
    for pid, _ in session_processes(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for(output: Path, pattern: str, process: subprocess.Popen[str], *, number: int = 1) -> bool:
    """Wait until so many files match a pattern below an output; False if the run ended before."""
    return wait_until(lambda: len(list(output.glob(pattern))) >= number, process, f"{number} {pattern} in {output}")


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], wanted: str) -> bool:
    """Wait until a condition holds; False if the run ended before."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    raise TimeoutError(wanted)


def states(output: Path) -> dict[str, str]:
    """State of each stage, as the run's record tells."""
    record = json.loads((output / "run.json").read_text())
    return {name: entry["state"] for name, entry in record["stages"].items()}
