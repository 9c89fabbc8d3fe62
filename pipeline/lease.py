"""One run at a time on one output: a courtesy that spares work, not what keeps results right.

Results stay right without it, by immutable parts and compare-and-swap manifests. A local output is held by flock,
which the kernel gives back when its holder dies, however it dies; an output in an object store by an object that its
holder keeps changing, see `lease_object`.

`GRADSIEVE_LEASE=off` switches it off: for file systems with broken locks, and for tests.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import UserError
from pipeline.lease_object import Pace, held_object, nobody_holds, refused
from pipeline.progress import Reporter
from pipeline.storage import Storage, is_s3, join

LEASE_NAME = "lease.json"
LOCK_NAME = ".run.lock"
SWITCH = "GRADSIEVE_LEASE"

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def held(
    output: str, storage: Storage, reporter: Reporter, *, wait: bool = False, pace: Pace | None = None
) -> Iterator[None]:
    """Hold an output for this run.

    Args:
        output: absolute folder or s3:// prefix.
        storage: reaches it.
        reporter: says what is waited for.
        wait: wait for another run to end instead of refusing.
        pace: other times than the usual ones.

    Raises:
        LockedError: another run holds it, and nobody wants to wait.
    """
    pace = pace or Pace()
    if os.environ.get(SWITCH) == "off":
        yield
    elif is_s3(output):
        with held_object(join(output, LEASE_NAME), storage, reporter, wait=wait, pace=pace):
            yield
    else:
        with _held_folder(Path(output), reporter, wait=wait, pace=pace):
            yield


def is_abandoned(output: str, storage: Storage) -> bool:
    """Whether it is certain that no run holds an output: nothing is written, and where only time could tell, it is not.

    Args:
        output: absolute folder or s3:// prefix.
        storage: reaches it.
    """
    if os.environ.get(SWITCH) == "off":
        return False
    if is_s3(output):
        return nobody_holds(join(output, LEASE_NAME), storage)
    try:
        with (Path(output) / LOCK_NAME).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or nobody can tell
        return False
    return True


@contextmanager
def _held_folder(folder: Path, reporter: Reporter, *, wait: bool, pace: Pace) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_NAME).open("a")
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            "the output is not a folder", where=folder, found=error, next_step="choose another `output`"
        ) from error
    except OSError as error:
        raise UserError(
            "the output cannot be written",
            where=folder,
            found=error.strerror,
            next_step="make it writable, or choose another `output`; the same command goes on from what is finished",
        ) from error
    with lock:
        told = False
        while not _flocked(lock, folder, reporter):
            if not wait:
                raise refused(str(folder))
            if not told:
                reporter.say(f"waiting for another run to end in {folder}")
                told = True
            time.sleep(pace.poll)
        yield


def _flocked(lock: IO[str], folder: Path, reporter: Reporter) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        reporter.warn(f"the file system of {folder} has no locks: nothing keeps a second run from repeating work here")
    return True
