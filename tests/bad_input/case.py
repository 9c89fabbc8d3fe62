"""A named bad input, what ought to become of it, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import GradsieveError

Outcome = Literal["accepted", "quarantined", "refused"]


@dataclass(frozen=True)
class Observed:
    """What a run made of an input."""

    outcome: str
    """An `Outcome`, or what else happened: an error that nobody may ever see."""
    said: str
    """Reasons of quarantine, what was normalised, or the whole message."""
    lost: tuple[str, ...] = ()
    """Uids of good samples that are not there any longer, or another harm done to what was good."""


@dataclass(frozen=True)
class Case:
    """A bad input and its wanted outcome."""

    name: str
    family: str
    outcome: Outcome
    wanted: tuple[str, ...]
    """Quarantine: all reasons. Accepted: what is normalised. Refused: pieces of the message, the place among them."""
    run: Callable[[Path], Observed]
    """Builds the input in a folder, and takes it through the stage that reads it."""


MARKER = "unpickled"
"""File that a pickle in the input makes in the case's folder, should it ever be loaded."""


def observe(case: Case, root: Path) -> tuple[Observed, list[str]]:
    """Run a case; also all that is wrong with what came of it."""
    try:
        observed = case.run(root)
    except GradsieveError as error:
        observed = Observed("refused", str(error))
        problems = _message_problems(error)
    except Exception as error:  # what a user would see as a traceback is what the corpus looks for
        observed, problems = Observed(type(error).__name__, str(error)), []
    else:
        problems = []
    return observed, problems + _problems(case, observed) + (["unpickled"] if (root / MARKER).exists() else [])


def _problems(case: Case, observed: Observed) -> list[str]:
    problems = [f"lost: {each}" for each in observed.lost]
    if observed.outcome != case.outcome:
        return [*problems, f"{observed.outcome} instead of {case.outcome}: {observed.said}"]
    if case.outcome == "refused":
        absent = [piece for piece in case.wanted if piece not in observed.said]
        return problems + [f"the message lacks {piece!r}: {observed.said}" for piece in absent]
    if observed.said != ", ".join(sorted(case.wanted)):
        problems.append(f"{observed.said!r} instead of {', '.join(sorted(case.wanted))!r}")
    return problems


def _message_problems(error: GradsieveError) -> list[str]:
    """A refusal has all parts of a message, and is one of the input's."""
    problems = [f"no `{part}` in the message: {error}" for part, value in error.parts.items() if not value]
    if "Traceback" in str(error) or "0x7f" in str(error):
        problems.append(f"a message that is none for people: {error}")
    return problems
