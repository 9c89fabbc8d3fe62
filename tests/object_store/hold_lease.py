"""A process that holds the lease of an output, for tests that refuse, stall, kill or race it."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from pipeline import lease_object
from pipeline.errors import GradsieveError
from pipeline.lease import held
from pipeline.lease_object import Pace
from pipeline.progress import Reporter
from pipeline.storage import Storage
from tests.object_store.processes import CONTEXT, PATIENCE


class _Told(Reporter):
    """Sends what is said through a pipe."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def say(self, text: str) -> None:
        self._pipe.send(text)

    def warn(self, text: str) -> None:
        self._pipe.send(text)


@dataclass
class LeaseProcess:
    """A process of its own that takes the lease, says `holding`, and gives it back when it is told to."""

    process: BaseProcess
    pipe: Connection
    told: list[str] = field(default_factory=list)
    """What it said, all of it."""

    @classmethod
    def start(cls, output: str, storage: Storage, environment: Mapping[str, str], *, wait: bool, elsewhere: bool,
              pace: Pace) -> "LeaseProcess":  # fmt: skip
        """Start one; `elsewhere`: as if it ran on another machine."""
        ours, theirs = CONTEXT.Pipe()
        arguments = (output, storage, dict(environment), wait, elsewhere, pace, theirs)
        process = CONTEXT.Process(target=_hold, args=arguments)
        process.start()
        theirs.close()
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process.pid is not None
        return self.process.pid

    def until(self, said: str) -> None:
        """Wait until it has said something."""
        while not any(said in line for line in self.told):
            assert self.pipe.poll(PATIENCE), f"it only said {self.told}"
            self.told.append(self.pipe.recv())

    def give_back(self) -> None:
        """Let it give the lease back, and wait for its end."""
        self.pipe.send("now")
        self.until("given back")
        self.process.join(PATIENCE)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.join(PATIENCE)


def _hold(
    output: str,
    storage: Storage,
    environment: Mapping[str, str],
    wait: bool,
    elsewhere: bool,
    pace: Pace,
    pipe: Connection,
) -> None:
    os.environ.update(environment)
    if elsewhere:
        lease_object._host = lambda: "another-machine/boot/namespace"
    try:
        with held(output, storage, _Told(pipe), wait=wait, pace=pace):
            pipe.send("holding")
            pipe.recv()
        pipe.send("given back")
    except GradsieveError as error:
        pipe.send(str(error))
        sys.exit(error.exit_code)
