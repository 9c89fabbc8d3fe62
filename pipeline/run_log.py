"""The log of a run in its own storage, so that it survives the cluster: JSON lines, in objects that never change.

A store has no append, so lines are held for some seconds and put as one more object,
`<output>/log/<attempt>/<number>.jsonl`; a killed driver loses those seconds. A log that cannot be written is a warning,
never the end of a run.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import GradsieveError
from pipeline.progress import Reporter
from pipeline.storage import Storage, join

FOLDER = "log"
SECONDS = 10.0
"""Between two objects, at least."""
_MOST_LINES = 10_000
"""Held at once; from there on lines are counted and not kept, until the store takes them again."""


class RunLog:
    """Events of one attempt of a run, put in pieces by a thread of its own."""

    def __init__(self, output: str, storage: Storage, reporter: Reporter, *, seconds: float = SECONDS) -> None:
        """Nothing is put before the first event; `seconds` pass between two objects."""
        self.folder = join(output, FOLDER, f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        self._storage, self._reporter, self._seconds = storage, reporter, seconds
        self._lines: list[str] = []
        self._lost = 0
        self._number = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="run log", daemon=True)

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Keep one event; may be called in any thread, and never waits for the store."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, "kind": kind, **fields}, ensure_ascii=False, default=str)
        with self._lock:
            if len(self._lines) < _MOST_LINES:
                self._lines.append(line)
            else:
                self._lost += 1

    def start(self) -> None:
        """Put from now on."""
        self._thread.start()

    def close(self) -> None:
        """Put what is held, and end."""
        self._end.set()
        self._thread.join()
        self._put()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self._put()

    def _put(self) -> None:
        with self._lock:
            lines, lost = list(self._lines), self._lost
        if not lines:
            return
        more = [json.dumps({"kind": "lost", "lines": lost})] if lost else []
        data = ("\n".join([*lines, *more]) + "\n").encode()
        try:
            self._storage.put(join(self.folder, f"{self._number:06d}.jsonl"), data)
        except (GradsieveError, OSError) as error:
            self._reporter.warn(f"the run's log could not be written: {str(error).splitlines()[0]}")
            return
        self._number += 1
        with self._lock:
            del self._lines[: len(lines)]
            self._lost -= lost


@contextmanager
def logged(output: str, storage: Storage, reporter: Reporter) -> Iterator[RunLog]:
    """Everything that the reporter is told goes into the run's log as well, while the context is open."""
    log = RunLog(output, storage, reporter)
    log.start()
    try:
        with reporter.heard_by(log.event):
            yield log
    finally:
        log.close()


def read_log(output: str, storage: Storage) -> Iterator[dict[str, Any]]:
    """Events of all attempts of a run, in the order of time; a line that is cut is skipped."""
    for stat in storage.list(join(output, FOLDER), suffix=".jsonl"):
        for line in storage.read_bytes(stat.uri).decode(errors="replace").split("\n"):
            try:
                event: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            yield event


def follow_log(output: str, storage: Storage, *, poll: float = SECONDS / 2) -> Iterator[dict[str, Any]]:
    """Events as they come, for ever."""
    seen = 0
    while True:
        events = list(read_log(output, storage))
        yield from events[seen:]
        seen = len(events)
        time.sleep(poll)
