"""Progress of long work: a live bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.metrics import count, show

Listener = Callable[[str, Mapping[str, Any]], None]
"""Takes the kind of an event and its fields; must not wait, and may be called in any thread."""

_LINE_EVERY_SECONDS = 10.0


class Bar:
    """One piece of long work with a known or unknown total.

    The rate is measured from the first report on, so that start-up does not make it look slow.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, console: Console, live: Progress | None, tell: Listener
    ) -> None:
        """Nothing is done yet."""
        self._label, self._total, self._unit, self._console, self._live = label, total, unit, console, live
        self._tell = tell
        self._last_line = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._done = 0
        self._task = live.add_task(label, total=total, note="") if live else None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Report `count` more units done; `note` is shown beside the rate."""
        self.set(self._done + count, note)

    def set(self, done: int, note: str = "", total: int | None = None) -> None:
        """Report that `done` units are done in all; `total` where it was not known before."""
        now = time.monotonic()
        count("work_done", done - self._done, work=self._label)
        self._done = done
        self._total = total if total is not None else self._total
        if self._first is None:
            self._first = (now, done)
        seconds, since_first = now - self._first[0], done - self._first[1]
        rate = since_first / seconds if seconds > 0 and since_first else None
        shown = [f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s"] if rate is not None else []
        if self._live is not None and self._task is not None:
            text = ", ".join([*shown, note] if note else shown)
            self._live.update(self._task, completed=done, total=self._total, note=text)
        if now - self._last_line < _LINE_EVERY_SECONDS:
            return
        self._last_line = now
        fields = {"work": self._label, "done": done, "total": self._total, "unit": self._unit, "note": note}
        self._tell("progress", {**fields, "per_second": None if rate is None else round(rate, 3)})
        if self._live is None:
            if rate and self._total:
                shown.append(f"{(self._total - done) / rate:,.0f} s left")
            of_total = f"/{self._total:,}" if self._total else ""
            parts = ", ".join([f"{done:,}{of_total} {self._unit}", *shown, *([note] if note else [])])
            self._console.print(f"  {self._label}: {parts}", highlight=False, markup=False, soft_wrap=True)


class Reporter:
    """Where a run says what it does; one for each run."""

    def __init__(self, console: Console | None = None) -> None:
        """Report on standard error, so that standard output stays free for results."""
        self.console = console or Console(file=sys.stderr)
        self._warned: set[str] = set()
        self._listeners: list[Listener] = []

    @contextmanager
    def heard_by(self, listener: Listener) -> Iterator[None]:
        """Tell a listener as well what is told while the context is open."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """For listeners alone: what a person reads in other words."""
        for listener in self._listeners:
            listener(kind, fields)

    def say(self, text: str) -> None:
        """One line."""
        self.event("said", {"text": text})
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that must not be missed, once."""
        if text in self._warned:
            return
        self._warned.add(text)
        self.event("warning", {"text": text})
        self.console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int | None, unit: str) -> Iterator[Bar]:
        """Show progress of a piece of work while the context is open."""
        show("work_running", 1, work=label)
        try:
            with self._bar(label, total, unit) as bar:
                yield bar
        finally:
            show("work_running", 0, work=label)

    @contextmanager
    def _bar(self, label: str, total: int | None, unit: str) -> Iterator[Bar]:
        if not self.console.is_terminal:
            yield Bar(label, total, unit, self.console, None, self.event)
            return
        columns = (
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as live:
            yield Bar(label, total, unit, self.console, live, self.event)
