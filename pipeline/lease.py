"""One run at a time on one output: a courtesy that spares work, not what keeps results right.

Results stay right without it, by immutable parts and compare-and-swap manifests. A local output is held by flock,
which the kernel gives back when its holder dies, however it dies. An output in an object store is held by
`<output>/lease.json`, which its holder changes every `RENEW_SECONDS`. Clocks of two machines are never compared: a
second run takes the lease over when it has seen the same content for `EXPIRY_SECONDS` of its own monotonic clock, and
at once when the holder's process is dead on the same host.

`GRADSIEVE_LEASE=off` switches it off: for stores without conditional puts, and for tests.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from pipeline.artifact import canonical_json
from pipeline.errors import GradsieveError, LockedError, UserError
from pipeline.progress import Reporter
from pipeline.storage import ConflictError, Storage, is_s3, join

LEASE_NAME = "lease.json"
SWITCH = "GRADSIEVE_LEASE"
RENEW_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
POLL_SECONDS = 1.0

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def held(output: str, storage: Storage, reporter: Reporter, *, wait: bool = False) -> Iterator[None]:
    """Hold an output for this run.

    Args:
        output: absolute folder or s3:// prefix.
        storage: reaches it.
        reporter: says what is waited for.
        wait: wait for another run to end instead of refusing.

    Raises:
        LockedError: another run holds it, and nobody wants to wait.
    """
    if os.environ.get(SWITCH) == "off":
        yield
    elif is_s3(output):
        with _held_object(join(output, LEASE_NAME), storage, reporter, wait=wait):
            yield
    else:
        with _held_folder(Path(output), reporter, wait=wait):
            yield


def _refused(output: str) -> LockedError:
    return LockedError(
        "another run is writing here", where=output, next_step="add --wait to wait for it, or choose another `output`"
    )


@contextmanager
def _held_folder(folder: Path, reporter: Reporter, *, wait: bool) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".run.lock").open("a")
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
                raise _refused(str(folder))
            if not told:
                reporter.say(f"waiting for another run to end in {folder}")
                told = True
            time.sleep(POLL_SECONDS)
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


@dataclass(frozen=True)
class Holder:
    """What the lease object says: who holds it, and a number that grows as long as the holder lives."""

    holder: str
    """Different for each run; empty in a lease that was given back."""
    host: str = ""
    pid: int = 0
    started: str = ""
    """When that process started, as its kernel counts: a process id may have been given away again."""
    counter: int = 0

    @classmethod
    def mine(cls) -> "Holder":
        """Of this process."""
        return cls(uuid.uuid4().hex, _host(), os.getpid(), _started(os.getpid()) or "")

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(asdict(self))

    def is_dead(self) -> bool:
        """Whether it was given back, or its process is known to be gone; False where only time can tell."""
        if not self.holder:
            return True
        return self.host == _host() and bool(self.started) and _started(self.pid) != self.started


@contextmanager
def _held_object(uri: str, storage: Storage, reporter: Reporter, *, wait: bool) -> Iterator[None]:
    mine = _acquire(uri, storage, reporter, wait=wait)
    renewal = _Renewal(uri, storage, reporter, mine)
    renewal.start()
    try:
        yield
    finally:
        renewal.end()


def _acquire(uri: str, storage: Storage, reporter: Reporter, *, wait: bool) -> Holder:
    mine = Holder.mine()
    seen: bytes | None = None
    since = time.monotonic()
    told = False
    while True:
        found = _read(uri, storage)
        if found is None or _holder(found).is_dead() or _expired(found, seen, since):
            if _swap(uri, storage, found, mine):
                return mine
            continue
        if found != seen:
            if not wait and (seen is not None or _lives_here(_holder(found))):
                raise _refused(uri)
            seen, since = found, time.monotonic()
        if not told:
            holder = _holder(found)
            told = True
            reporter.say(
                f"held by process {holder.pid} on {holder.host.partition('/')[0]}; "
                + ("waiting for it to end" if wait else f"seeing for up to {EXPIRY_SECONDS:.0f} s whether it lives")
            )
        time.sleep(POLL_SECONDS)


def _expired(found: bytes, seen: bytes | None, since: float) -> bool:
    return found == seen and time.monotonic() - since >= EXPIRY_SECONDS


def _read(uri: str, storage: Storage) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        return None


def _holder(content: bytes) -> Holder:
    """Who holds a lease; a lease that cannot be read is nobody's known, and expires like any other."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return Holder("unknown")


def _swap(uri: str, storage: Storage, old: bytes | None, new: Holder) -> bool:
    try:
        storage.compare_and_swap(uri, old, new.to_json())
    except ConflictError:
        return _read(uri, storage) == new.to_json()  # the answer to a put that succeeded may have been lost
    return True


class _Renewal:
    """Changes the lease's content until told to end, then gives it back."""

    def __init__(self, uri: str, storage: Storage, reporter: Reporter, mine: Holder) -> None:
        self._uri, self._storage, self._reporter, self._mine = uri, storage, reporter, mine
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop renewing and give the lease back, if it is still ours and its store can be reached."""
        self._ended.set()
        self._thread.join()
        try:
            _swap(self._uri, self._storage, self._mine.to_json(), Holder(""))
        except (GradsieveError, OSError) as error:
            self._reporter.warn(f"the lease could not be given back; it expires by itself: {error}")

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            renewed = replace(self._mine, counter=self._mine.counter + 1)
            try:
                if not _swap(self._uri, self._storage, self._mine.to_json(), renewed):
                    self._reporter.warn(
                        f"another run took {self._uri} over: both go on and end in one result, with work done twice"
                    )
                    return
            except (GradsieveError, OSError) as error:
                self._reporter.warn(f"the lease was not renewed, trying again: {error}")
                continue
            self._mine = renewed


def _lives_here(holder: Holder) -> bool:
    return holder.host == _host() and bool(holder.started) and not holder.is_dead()


def _host() -> str:
    """Name, boot and process namespace: where a process id means the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, space = "", uuid.uuid4().hex  # not Linux: only time can tell
    return f"{socket.gethostname()}/{boot}/{space}"


def _started(pid: int) -> str | None:
    """Start time of a living process in clock ticks since boot; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
