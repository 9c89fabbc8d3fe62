"""A lease in an object store: `lease.json`, which its holder changes again and again as long as it lives.

Clocks of two machines are never compared: an observer takes the lease over when it has seen the same content for
`Pace.expiry` seconds of its own monotonic clock, and at once when the holder's process is dead on the same host. Every
change is a compare-and-swap, so of many who try at once one succeeds, and a holder that was only stalled finds the
lease taken when it wakes.
"""

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

from pipeline.artifact import canonical_json
from pipeline.errors import GradsieveError, LockedError
from pipeline.progress import Reporter
from pipeline.storage import ConflictError, Storage


@dataclass(frozen=True)
class Pace:
    """Seconds between what holders and observers do."""

    renew: float = 10.0
    """From one change by the holder to the next."""
    expiry: float = 60.0
    """How long an observer must see no change before it takes the lease over."""
    poll: float = 1.0
    """From one look of an observer to the next."""


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
def held_object(uri: str, storage: Storage, reporter: Reporter, *, wait: bool, pace: Pace) -> Iterator[None]:
    """Hold a lease object while the context is open.

    Raises:
        LockedError: somebody else holds it and is seen to live; never if `wait`.
    """
    mine = _acquire(uri, storage, reporter, wait=wait, pace=pace)
    renewal = _Renewal(uri, storage, reporter, mine, pace)
    renewal.start()
    try:
        yield
    finally:
        renewal.end()


def nobody_holds(uri: str, storage: Storage) -> bool:
    """Whether a lease was given back, or its holder is known to be dead."""
    content = _read(uri, storage)
    return content is not None and _holder(content).is_dead()


def refused(where: str) -> LockedError:
    """What a run is told that does not want to wait."""
    return LockedError(
        "another run is writing here", where=where, next_step="add --wait to wait for it, or choose another `output`"
    )


def _acquire(uri: str, storage: Storage, reporter: Reporter, *, wait: bool, pace: Pace) -> Holder:
    mine = Holder.mine()
    seen: bytes | None = None
    since = time.monotonic()
    told = False
    while True:
        found = _read(uri, storage)
        if found is None or _holder(found).is_dead() or (found == seen and time.monotonic() - since >= pace.expiry):
            if _swap(uri, storage, found, mine):
                return mine
            continue
        if found != seen:
            if not wait and (seen is not None or _lives_here(_holder(found))):
                raise refused(uri)
            seen, since = found, time.monotonic()
        if not told:
            holder = _holder(found)
            told = True
            reporter.say(
                f"held by process {holder.pid} on {holder.host.partition('/')[0]}; "
                + ("waiting for it to end" if wait else f"seeing for up to {pace.expiry:.0f} s whether it lives")
            )
        time.sleep(pace.poll)


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

    def __init__(self, uri: str, storage: Storage, reporter: Reporter, mine: Holder, pace: Pace) -> None:
        self._uri, self._storage, self._reporter, self._mine, self._pace = uri, storage, reporter, mine, pace
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
        while not self._ended.wait(self._pace.renew):
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
