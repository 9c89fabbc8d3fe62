"""Files on a local or shared file system, with the same rules as an object store."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.crash_points import reach
from pipeline.disk_errors import disk_errors_named
from pipeline.errors import UserError
from pipeline.storage import Stat


class LocalBackend:
    """Whole-file puts by write, fsync and link or rename: a reader sees all of a file or none of it."""

    def read(self, uri: str, start: int, length: int | None) -> bytes:
        """See `Backend.read`."""
        with Path(uri).open("rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def read_many(self, uri: str, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """See `Backend.read_many`."""
        with Path(uri).open("rb", buffering=0) as file:
            for start, length in ranges:
                yield _read_at(file.fileno(), start, length)

    def stat(self, uri: str) -> Stat:
        """See `Backend.stat`."""
        if not os.path.isfile(uri):
            raise FileNotFoundError(uri)
        info = os.stat(uri)
        return Stat(uri, info.st_size, str(info.st_mtime_ns))

    def list(self, uri: str, *, hidden: bool) -> list[Stat]:
        """See `Backend.list`; parts of unfinished puts are among the hidden files."""
        found: list[Stat] = []
        for folder, _, names in os.walk(uri):
            found += [self._listed(os.path.join(folder, name)) for name in names if hidden or not name.startswith(".")]
        return sorted(found)

    def _listed(self, uri: str) -> Stat:
        try:
            return self.stat(uri)
        except FileNotFoundError:
            raise UserError(
                "a listed file cannot be read",
                where=uri,
                expected="a file",
                found="a link to nothing" if os.path.islink(uri) else "no regular file, or gone meanwhile",
                next_step="remove it, or make it whole",
            ) from None

    def put(self, uri: str, data: bytes, *, overwrite: bool) -> None:
        """See `Backend.put`."""
        with disk_errors_named(uri), _staged(Path(uri)) as temporary:
            temporary.write_bytes(data)
            _publish(temporary, Path(uri), overwrite=overwrite)

    def put_file(self, uri: str, local: Path, *, overwrite: bool) -> None:
        """See `Backend.put_file`."""
        with disk_errors_named(uri), _staged(Path(uri)) as temporary:
            _take(local, temporary)
            _publish(temporary, Path(uri), overwrite=overwrite)

    def compare_and_swap(self, uri: str, old: bytes | None, new: bytes) -> bool:
        """See `Backend.compare_and_swap`; writers of one folder take turns by a lock file."""
        path = Path(uri)
        with disk_errors_named(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = (path.parent / ".swap.lock").open("a")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            current = path.read_bytes() if path.exists() else None
            if current != old:
                return False
            self.put(uri, new, overwrite=True)
            return True

    def delete(self, uri: str) -> None:
        """See `Backend.delete`."""
        Path(uri).unlink(missing_ok=True)


def _read_at(file: int, start: int, length: int) -> bytes:
    """One call mostly; the system reads at most 2 GiB at once."""
    data = os.pread(file, length, start)
    while len(data) < length and (more := os.pread(file, length - len(data), start + len(data))):
        data += more
    return data


def _take(local: Path, temporary: Path) -> None:
    """A file that is whole need not be written again where another name will do; from another disk it is copied."""
    try:
        os.replace(local, temporary)
    except OSError:
        shutil.copyfile(local, temporary)


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    os.chmod(temporary, 0o644)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    reach("staged", str(target))
    if overwrite:
        os.replace(temporary, target)
    else:
        os.link(temporary, target)  # fails if the name is taken, which rename would not
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
