"""`gradsieve gc`: of a series of runs keep the last ones; what none of those refers to can be deleted.

A series is a folder of runs that share a store, as `gradsieve run --dated` makes them. Nothing is deleted on a guess: a
record that cannot be read, or a run that is at work, stops it before the first deletion.

Of entries (`pipeline.reuse`) those stay that a manifest of a kept run lists, but for artifacts that it took from an
earlier run, which need none; all of them while a kept run has a stage that is not finished, as nobody can tell which of
them that will use.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.artifact import MANIFEST_NAME, Manifest
from pipeline.errors import LockedError, UserError
from pipeline.graph import is_replacing
from pipeline.lease import LEASE_NAME, LOCK_NAME, held
from pipeline.progress import Reporter
from pipeline.reuse import FOLDER as ENTRIES
from pipeline.run_record import RECORD_NAME, read_record, resolve
from pipeline.storage import Stat, Storage, is_s3, join, relative

STORE_NAME = "store"
_ARTIFACT = re.compile(r"(.+?/[0-9a-f]{16})/")


@dataclass(frozen=True)
class RunAt:
    """A run of a series, as its record tells."""

    output: str
    state: str
    started: str
    roots: frozenset[str]
    """Folders of its artifacts, those under way included."""
    manifests: frozenset[str]
    """Of its finished artifacts, but for those that it took from an earlier run."""
    is_whole: bool
    """Whether every stage that was begun is finished."""


@dataclass
class Doomed:
    """A folder that no kept run refers to."""

    root: str
    files: list[Stat] = field(default_factory=list)

    @property
    def is_entry(self) -> bool:
        """Whether it holds the result of a single task."""
        return f"/{STORE_NAME}/{ENTRIES}/" in self.root

    @property
    def num_bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True)
class Verdict:
    """What would go, and what stays."""

    kept: list[RunAt]
    runs: list[Doomed]
    artifacts: list[Doomed]

    @property
    def doomed(self) -> list[Doomed]:
        """All that would go, artifacts first: a run's own folder is what tells of them."""
        return [*self.artifacts, *self.runs]


def judge(series: str, storage: Storage, *, keep: int) -> Verdict:
    """Tell runs to keep from others: the newest finished ones, and what was begun after the newest of them.

    Args:
        series: absolute folder or s3:// prefix.
        storage: reaches it.
        keep: how many finished runs stay.

    Raises:
        UserError: there is no run.
        RunError: a record is damaged; nothing can be said of what it refers to.
    """
    files = storage.list(series, hidden=True)
    runs = sorted(runs_of(series, files, storage), key=lambda run: (run.started, run.output), reverse=True)
    if not runs:
        raise UserError(
            "no runs here", where=series, expected="a folder of runs", next_step="gradsieve run CONFIG --dated"
        )
    finished = [run for run in runs if run.state == "done"]
    last = finished[0].started if finished else ""
    kept = finished[:keep] + [run for run in runs if run.state != "done" and run.started >= last]
    store = join(series, STORE_NAME) + "/"
    referred = {root for run in kept for root in run.roots}
    used = _entries_used(kept, store, storage)
    folders = {run.output: Doomed(run.output) for run in runs if run not in kept}
    artifacts: dict[str, Doomed] = {}
    for file in files:
        owner = next((folder for folder in folders if file.uri.startswith(folder + "/")), None)
        if owner is not None:
            folders[owner].files.append(file)
        elif file.uri.startswith(store) and (found := _ARTIFACT.match(relative(store, file.uri))):
            root = store + found[1]
            is_entry = found[1].startswith(ENTRIES + "/")
            stays = (used is None or root in used) if is_entry else root in referred
            if not stays:
                artifacts.setdefault(root, Doomed(root)).files.append(file)
    return Verdict(kept, list(folders.values()), list(artifacts.values()))


def _entries_used(kept: Sequence[RunAt], store: str, storage: Storage) -> set[str] | None:
    """Folders of the entries that kept runs used; None where that cannot be told, so that all of them stay.

    Raises:
        RunError: a manifest of a kept run is damaged.
    """
    used: set[str] = set()
    for run in kept:
        if not run.is_whole:
            return None
        for uri in run.manifests:
            try:
                data = storage.read_bytes(uri)
            except FileNotFoundError:
                return None
            if is_replacing(data):
                return None
            used |= {store + name for name in Manifest.from_json(data, uri).entries}
    return used


def collect(
    series: str,
    storage: Storage,
    reporter: Reporter,
    *,
    keep: int,
    agree: Callable[[Verdict], bool],
) -> Verdict:
    """Judge, and delete if `agree` says so, while no run of the series is at work.

    A deletion that is broken off leaves nothing that is taken for whole: manifests go first, a run's record last.

    Raises:
        LockedError: a run is at work.
    """
    with _told_of_gc(series), ExitStack() as leases:
        leases.enter_context(held(series, storage, reporter))
        verdict = judge(series, storage, keep=keep)
        if not agree(verdict):
            return verdict
        for output in [*(run.output for run in verdict.kept), *(folder.root for folder in verdict.runs)]:
            leases.enter_context(held(output, storage, reporter))
        total = sum(len(doomed.files) for doomed in verdict.doomed)
        with reporter.bar("gc", total, "files") as bar:
            for doomed in verdict.doomed:
                for file in sorted(doomed.files, key=_turn):
                    storage.delete(file.uri)
                    bar.advance()
    for doomed in verdict.runs:  # where alone there were leases
        storage.delete(join(doomed.root, LEASE_NAME))
        storage.delete(join(doomed.root, LOCK_NAME))
    for doomed in verdict.doomed:
        _remove_empty(doomed.root)
    return verdict


@contextmanager
def _told_of_gc(series: str) -> Iterator[None]:
    """What to do about a run at work is another thing here than for a run."""
    try:
        yield
    except LockedError as error:
        raise LockedError(
            "a run of the series is at work: nothing was deleted",
            where=error.parts["where"] or series,
            next_step="run gc again when it has ended",
        ) from None


def _remove_empty(root: str) -> None:
    """Local folders that are empty now."""
    if not is_s3(root):
        for folder, _, _ in os.walk(root, topdown=False):
            with suppress(OSError):  # something was put there meanwhile: it stays
                os.rmdir(folder)


def _turn(file: Stat) -> tuple[int, str]:
    """Manifests before parts, records last of all."""
    name = file.uri.rpartition("/")[2]
    is_manifest = name == MANIFEST_NAME or "/manifests/" in file.uri
    return (0 if is_manifest else 2 if name == RECORD_NAME else 1, file.uri)


def runs_of(series: str, files: Sequence[Stat], storage: Storage) -> Iterator[RunAt]:
    """The runs of a series, in no order that matters, from a listing of all that lies in it.

    Raises:
        RunError: a record is damaged.
    """
    for file in files:
        folder, _, name = file.uri.rpartition("/")
        if name == RECORD_NAME and folder != series and "/" not in relative(series, folder):
            record: dict[str, Any] = read_record(folder, storage)
            begun = [entry for entry in record["stages"].values() if "root" in entry]
            finished = [entry for entry in begun if "manifest" in entry]
            yield RunAt(
                folder,
                str(record["state"]),
                str(record["started"]),
                frozenset(resolve(folder, entry["root"]) for entry in begun),
                frozenset(resolve(folder, entry["manifest"]) for entry in finished if "from" not in entry),
                len(finished) == len(begun),
            )
