"""`gradsieve submit` and `ray job submit` as a user types them, followed through the log that they write."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from cluster.jobs import Jobs
from tests.crash.scenes import ROOT

PATIENCE = 600.0
"""Seconds after which a job counts as hanging; machines that are shared can be slow."""
_LOOK_SECONDS = 0.05


@dataclass
class Submitted:
    """A command that follows a job."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def shown(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def end(self) -> tuple[int, str]:
        """Exit code and all that was printed; one that hangs is killed and fails the test."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return code, self.shown()

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def wait_until(self, condition: Callable[[], bool], wanted: str) -> None:
        """Wait until a condition holds; a job that ends before fails the test."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"ended before {wanted}:\n{self.shown()}"
            assert time.monotonic() < deadline, f"no {wanted}:\n{self.shown()}"
            time.sleep(_LOOK_SECONDS)

    def wait_for_line(self, text: str) -> None:
        """Wait until something is printed."""
        self.wait_until(lambda: text in self.shown(), f"line `{text}`")


@dataclass
class Submitter:
    """Submits from a folder to the cluster whose dashboard is at an address."""

    folder: Path
    """The working directory that travels with jobs."""
    address: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """More variables of the submitting process."""
    _numbers: "count[int]" = field(default_factory=count, init=False)

    @property
    def place(self) -> Path:
        """Where its logs lie, and runs may."""
        return self.folder.parent

    def start(self, *words: str, address: str | None = None) -> Submitted:
        """`gradsieve submit` with these words."""
        command = [sys.executable, "-m", "pipeline.cli.app", "submit", *words]
        return self._start([*command, "--address", address or self.address], self.folder)

    def run(self, *words: str, address: str | None = None) -> tuple[int, str]:
        """The same to its end."""
        return self.start(*words, address=address).end()

    def start_with_ray(self, *words: str, working_dir: Path | None = None) -> Submitted:
        """`ray job submit --working-dir . -- python -m pipeline.run` with these words."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.address]
        driver = ["python", "-m", "pipeline.run", *words]
        return self._start([*command, "--working-dir", ".", "--", *driver], working_dir or self.folder)

    def jobs(self) -> Jobs:
        """The cluster's jobs."""
        return Jobs(self.address)

    def _start(self, command: Sequence[str], folder: Path) -> Submitted:
        own = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
        log = self.place / f"submitted-{os.getpid()}-{id(self)}-{next(self._numbers)}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **own, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        return Submitted(process, log)


def drivers_of(output: str) -> list[int]:
    """Process ids of the drivers that write to an output, on this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "pipeline.run" in words and f"output={output}" in words and "submit" not in words:
            found.append(int(folder.name))
    return found
