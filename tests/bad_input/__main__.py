"""Run every bad input and print what became of it: `python -m tests.bad_input [PART OF A NAME]`."""

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.bad_input.case import Case, Observed, observe
from tests.bad_input.corpus import CASES


def main(wanted: str = "") -> int:
    """Exit status 1 where an outcome is not the wanted one."""
    table = Table("family", "case", "outcome", "reason, or first line of the message", "ok?", title="bad input")
    failures = []
    chosen = [case for case in CASES if wanted in f"{case.family}: {case.name}"]
    for case in chosen:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            observed, problems = observe(case, Path(folder))
        table.add_row(*_row(case, observed), Text("no" if problems else "yes", "red" if problems else "green"))
        failures += [f"{case.family}: {case.name}: {problem}" for problem in problems]
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for failure in failures:
        console.print(Text(failure, "red"))
    console.print(f"{len(chosen)} bad inputs, {len(failures)} differences from the wanted outcomes")
    return 1 if failures or not chosen else 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the stages' own warnings, which would stand between the rows."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _row(case: Case, observed: Observed) -> tuple[Text, ...]:
    said = observed.said.splitlines()[0] if observed.said else ""
    return Text(case.family), Text(case.name), Text(observed.outcome), Text(said)


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    sys.exit(main(*sys.argv[1:2]))
