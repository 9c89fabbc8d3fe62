"""What a full, read-only or forbidden disk is called in front of a user."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import RunError

_GOES_ON = "the same command goes on from what is finished"
_MEANINGS = {
    errno.ENOSPC: ("no space left on device", f"free some, or put `output` or `store` elsewhere; {_GOES_ON}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some, or put `output` or `store` elsewhere; {_GOES_ON}"),
    errno.EROFS: ("the file system is read-only", f"mount it writable, or choose another `output`; {_GOES_ON}"),
    errno.EACCES: ("permission denied", f"make it accessible, or choose another `output`; {_GOES_ON}"),
    errno.EPERM: ("permission denied", f"make it accessible, or choose another `output`; {_GOES_ON}"),
    errno.EIO: ("the disk failed", f"see the system's log; {_GOES_ON}"),
    errno.ENOTDIR: ("a part of the path is a file", f"choose another `output`; {_GOES_ON}"),
}


def disk_error(error: OSError, where: object = None) -> RunError | None:
    """An error of the disk as a message with the next step; None for any other error."""
    if error.errno not in _MEANINGS:
        return None
    what, next_step = _MEANINGS[error.errno]
    return RunError(what, where=where or error.filename, found=error.strerror, next_step=next_step)


@contextmanager
def disk_errors_named(where: object = None) -> Iterator[None]:
    """Raise errors of the disk as `RunError`; others pass unchanged.

    Raises:
        RunError: no space, read-only, not permitted, broken.
    """
    try:
        yield
    except OSError as error:
        named = disk_error(error, where)
        if named is None:
            raise
        raise named from error
