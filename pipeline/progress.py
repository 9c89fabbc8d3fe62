"""Progress of long work: a live bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_SECONDS = 10.0


class Bar:
    """One piece of long work with a known or unknown total."""

    def __init__(self, label: str, total: int | None, unit: str, console: Console, live: Progress | None) -> None:
        """Start counting now."""
        self._label, self._total, self._unit, self._console, self._live = label, total, unit, console, live
        self._started = self._last_line = time.monotonic()
        self._done = 0
        self._task = live.add_task(label, total=total, note="") if live else None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Report `count` more units done; `note` is shown beside the rate."""
        self.set(self._done + count, note)

    def set(self, done: int, note: str = "") -> None:
        """Report that `done` units are done in all."""
        self._done = done
        seconds = max(time.monotonic() - self._started, 1e-9)
        text = f"{done / seconds:,.0f} {self._unit}/s {note}".rstrip()
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, note=text)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            of_total = f"/{self._total:,}" if self._total else ""
            left = f", {seconds / done * (self._total - done):,.0f} s left" if self._total and done else ""
            self._console.print(f"  {self._label}: {done:,}{of_total} {self._unit}, {text}{left}", highlight=False)


class Reporter:
    """Where a run says what it does; one for each run."""

    def __init__(self, console: Console | None = None) -> None:
        """Report on standard error, so that standard output stays free for results."""
        self.console = console or Console(file=sys.stderr)

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """One line that must not be missed."""
        self.console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)

    @contextmanager
    def bar(self, label: str, total: int | None, unit: str) -> Iterator[Bar]:
        """Show progress of a piece of work while the context is open."""
        if not self.console.is_terminal:
            yield Bar(label, total, unit, self.console, None)
            return
        columns = (
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as live:
            yield Bar(label, total, unit, self.console, live)
