"""Processes that end with the one that started them, however that one ends; for `preexec_fn`."""

import ctypes
import signal

_LIBC = ctypes.CDLL(None)
_SET_PARENT_DEATH_SIGNAL = 1


def killed_with_parent() -> None:
    """For what has nothing to put in order."""
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def told_with_parent() -> None:
    """For what ends processes of its own when it is told to end."""
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
