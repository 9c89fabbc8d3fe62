"""Errors that reach a user: what happened, where, expected, found, and what to do next."""

import re
from typing import ClassVar

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY_OF_URL = re.compile(r"(https?://[^\s?#'\"]*)\?[^\s'\"]*")


def without_secret(text: str) -> str:
    """A text as it may be shown: user, password and query of a URL are not."""
    return _QUERY_OF_URL.sub(r"\1?***", _USER_IN_URL.sub("***@", text))


class GradsieveError(Exception):
    """Base of all errors that are shown as one message, without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        next_step: str | None = None,
    ) -> None:
        """Compose the message from its parts; parts left out are not shown."""
        parts = {"what": what, "where": where, "expected": expected, "found": found, "next": next_step}
        self.parts = {key: None if part is None else without_secret(str(part)) for key, part in parts.items()}
        lines = [str(self.parts["what"])]
        lines += [
            f"  {label}: {self.parts[label]}"
            for label in ("where", "expected", "found", "next")
            if self.parts[label] is not None
        ]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by parts, so that an error raised in a worker process arrives whole."""
        return _rebuild, (type(self), dict(self.parts))


def _rebuild(kind: type[GradsieveError], parts: dict[str, str | None]) -> GradsieveError:
    return kind(
        parts["what"] or "",
        where=parts["where"],
        expected=parts["expected"],
        found=parts["found"],
        next_step=parts["next"],
    )


class RunError(GradsieveError):
    """The run failed, or a check on its results differs (exit code 1)."""


class UserError(GradsieveError):
    """The configuration or the input is at fault (exit code 2)."""

    exit_code = 2


class LockedError(GradsieveError):
    """Another run holds the output (exit code 3)."""

    exit_code = 3


class InterruptedRunError(GradsieveError):
    """Somebody pressed Ctrl-C (exit code 130)."""

    exit_code = 130


class TerminatedRunError(InterruptedRunError):
    """The process was told to end, by SIGTERM (exit code 143)."""

    exit_code = 143
