"""What lies in a run's output and store and is listed by no manifest.

Deliverables are read by tools that take all that is there, so a stray file in one is a difference. Elsewhere it is an
orphan: left by a run that died, or put there by hand, and read by nobody. What runs keep for one another in entries
(`pipeline.reuse`) is private: no finished run needs it.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipeline.artifact import MANIFEST_NAME, Artifact, Manifest
from pipeline.errors import RunError
from pipeline.graph import is_replacing
from pipeline.lease import LEASE_NAME, LOCK_NAME
from pipeline.reuse import FOLDER as ENTRIES
from pipeline.run_log import FOLDER
from pipeline.run_record import RECORD_NAME
from pipeline.storage import Storage, join, relative

PRIVATE_FOLDERS = ("checkpoints/", "parts/", "work/")
"""Folders of a stage's own inside its artifact, which no manifest lists and no finished run needs."""
_OWN = {RECORD_NAME, LEASE_NAME, LOCK_NAME}
_LOG = re.compile(rf"{FOLDER}/[^/]+/\d+\.jsonl")
_MANIFESTS = "manifests"
_SWAP_LOCK = ".swap.lock"
_UNFINISHED_PUT = re.compile(r"\..+\.[a-z0-9_]{8}|\.conditions-[0-9a-f]{32}")
"""Hidden names under which a put, or the question for conditional puts, can leave something when it is killed."""
_IN_STORE = re.compile(r"(.+?/[0-9a-f]{16})/")


@dataclass
class Unlisted:
    """URIs by what they are."""

    strays: list[tuple[str, str]] = field(default_factory=list)
    """(deliverable, URI) of files in a deliverable's folder."""
    orphans: list[str] = field(default_factory=list)
    num_private: int = 0
    """In the stages' own folders, such as checkpoints, and in entries."""


@dataclass(frozen=True)
class _Place:
    """The folder of an artifact."""

    name: str
    root: str
    listed: frozenset[str] | None
    """Paths; None where the manifest cannot be read, and nobody can tell."""
    deliverable: bool
    entry: bool = False
    """Whether it is a result of a single task, kept for other runs."""

    def holds(self, uri: str) -> bool:
        return uri.startswith(self.root + "/")

    def sort(self, uri: str, found: Unlisted) -> None:
        path = relative(self.root, uri)
        if self.listed is None or path in self.listed:
            found.num_private += self.entry
            return
        if path.startswith(PRIVATE_FOLDERS) and not self.deliverable:
            found.num_private += 1
        elif self.deliverable and not _UNFINISHED_PUT.fullmatch(path.rpartition("/")[2]):
            found.strays.append((self.name, uri))
        else:
            found.orphans.append(uri)


def find_unlisted(
    output: str, artifacts: Mapping[str, Artifact], stages: Collection[str], storage: Storage
) -> Unlisted:
    """Compare listings with manifests, those of other runs in the same store included.

    Args:
        output: of the run.
        artifacts: those of its stages whose manifest can be read.
        stages: names of all its stages.
        storage: lists them. A store outside the output may be shared with runs that are at work: there the folders of
            this run's own artifacts are looked at alone.
    """
    found = Unlisted()
    places = [_place_of(artifact, output) for artifact in artifacts.values()]
    apart = [place.root for place in places if not place.root.startswith(output + "/")]
    known = {place.name for place in places if place.deliverable} | (set(stages) - set(artifacts))
    others = _Others(output, known, storage)
    for folder in (output, *apart):
        for stat in storage.list(folder, hidden=True):
            place = next((place for place in places if place.holds(stat.uri)), None) or others.place(stat.uri)
            if place is not None:
                place.sort(stat.uri, found)
            elif not others.are_known(stat.uri):
                found.orphans.append(stat.uri)
    return found


def _place_of(artifact: Artifact, output: str) -> _Place:
    name = artifact.manifest.artifact
    deliverable = artifact.root == join(output, name)
    return _Place(name, artifact.root, _listed(artifact.manifest, deliverable=deliverable), deliverable)


def _listed(manifest: Manifest, *, deliverable: bool) -> frozenset[str]:
    paths = frozenset(file.path for file in manifest.files)
    return paths if deliverable else paths | {MANIFEST_NAME}


class _Others:
    """What else an output may hold: the run's own few files, and artifacts of other configurations."""

    def __init__(self, output: str, stages: Collection[str], storage: Storage) -> None:
        self._output, self._stages, self._storage = output, stages, storage
        self._places: dict[str, _Place | None] = {}

    def are_known(self, uri: str) -> bool:
        """Whether it is a file of the run's own, or the manifest of some deliverable."""
        path = relative(self._output, uri)
        folder, _, name = path.rpartition("/")
        if path in _OWN or _LOG.fullmatch(path):
            return True
        return folder == _MANIFESTS and (name == _SWAP_LOCK or self._is_deliverable(name))

    def place(self, uri: str) -> _Place | None:
        """The artifact in whose folder it lies, one of another run or one whose manifest is damaged."""
        path = relative(self._output, uri)
        in_store = _IN_STORE.match(path)
        root = join(self._output, in_store[1] if in_store else path.partition("/")[0])
        if root == uri or root == join(self._output, _MANIFESTS):
            return None
        if root not in self._places:
            self._places[root] = self._read(root, deliverable=in_store is None)
        return self._places[root]

    def _read(self, root: str, *, deliverable: bool) -> _Place | None:
        name = relative(self._output, root)
        try:
            data = self._storage.read_bytes(self._manifest_uri(name) if deliverable else join(root, MANIFEST_NAME))
            manifest = None if is_replacing(data) else Manifest.from_json(data, root)
            listed = None if manifest is None else _listed(manifest, deliverable=deliverable)
        except FileNotFoundError:
            if name in self._stages:
                return _Place(name, root, None, deliverable)  # told as a difference already
            return None if deliverable else _Place(name, root, frozenset(), deliverable)
        except RunError:
            listed = None
        return _Place(name, root, listed, deliverable, f"/{ENTRIES}/" in name)

    def _manifest_uri(self, name: str) -> str:
        return join(self._output, _MANIFESTS, f"{name}.json")

    def _is_deliverable(self, file: str) -> bool:
        """Whether a file in the folder of manifests is one."""
        name, ending, _ = file.partition(".json")
        place = self.place(join(self._output, name, "any")) if ending else None
        return bool(ending) and (name in self._stages or (place is not None and place.listed is not None))
