"""Results of single tasks that outlive their run: a task whose inputs have not changed is not done again.

An *entry* is the result of one row-wise task: an artifact of its own at `<store>/entries/<kind>/<key[:16]>/`, files
first, manifest last. Its key is a digest of all that its rows depend on, so that a run over a grown pool finds what an
earlier run made of the same shards. Stages declare the kinds that they keep (`Stage.keeps`) and name the entries that
they used in their result: `gradsieve gc` deletes those that no kept run refers to.

An entry without a manifest is not there. One of whose files is gone is made again; a file that is there with other
bytes is an error that names it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.artifact import MANIFEST_NAME, Artifact, ArtifactWriter, FileEntry, Manifest, canonical_json, sha256_hex
from pipeline.errors import RunError
from pipeline.storage import AlreadyExistsError, Storage, join

FOLDER = "entries"
"""Of a store; behind it lie folders as those of any artifact."""


@dataclass(frozen=True)
class Entries:
    """All entries of one kind; a picklable handle for tasks."""

    kind: str
    """Such as `pool/shards`."""
    root: str
    """Folder of the kind."""
    storage: Storage

    @classmethod
    def of(cls, store: str, kind: str, storage: Storage) -> "Entries":
        """Those of a kind in a store."""
        return cls(kind, join(store, FOLDER, kind), storage)

    def key(self, *identity: object) -> str:
        """64 hex digits over the kind and all that decides the rows: version, config, digests of exactly the inputs."""
        return sha256_hex(canonical_json([self.kind, *identity]))

    def name(self, key: str) -> str:
        """Folder of an entry relative to the store, as manifests list it."""
        return join(FOLDER, self.kind, key[:16])

    def find(self, key: str) -> Artifact | None:
        """The finished entry of a key, all of whose files are there.

        Raises:
            RunError: its manifest is damaged.
        """
        root = self._root(key)
        uri = join(root, MANIFEST_NAME)
        try:
            manifest = Manifest.from_json(self.storage.read_bytes(uri), uri)
        except FileNotFoundError:
            return None
        entry = Artifact(root, manifest, self.storage)
        return entry if manifest.fingerprint == key and not entry.faults() else None

    def find_longest(self, keys: Sequence[str]) -> tuple[int, Artifact | None]:
        """Of the keys of ever longer beginnings of something, the longest that has an entry: its number, and the entry.

        Asks once for each key at most, from the longest on.
        """
        for count in range(len(keys), 0, -1):
            entry = self.find(keys[count - 1])
            if entry is not None:
                return count, entry
        return 0, None

    def writer(self, key: str) -> ArtifactWriter:
        """Puts the files of an entry.

        Names must tell the content (`put_by_content`): what an earlier attempt left, perhaps of other versions of a
        library, is then never in the way.
        """
        return ArtifactWriter(self._root(key), self.storage)

    def commit(self, key: str, files: Sequence[FileEntry], summary: Mapping[str, Any]) -> Artifact:
        """Put the manifest, which makes the entry exist; where another task did so first, its result.

        Raises:
            RunError: an entry is there that cannot be used.
        """
        manifest = Manifest(join(FOLDER, self.kind), key, {}, tuple(files), summary)
        root = self._root(key)
        uri = join(root, MANIFEST_NAME)
        try:
            self.storage.put_once(uri, manifest.to_json())
        except AlreadyExistsError:
            first = self.find(key)
            if first is None:
                raise RunError(
                    "an entry lacks files, and was made again with other bytes",
                    where=uri,
                    expected="the bytes that its manifest lists",
                    next_step="remove that manifest and run again",
                ) from None
            return first
        return Artifact(root, Manifest.from_json(manifest.to_json(), uri), self.storage)

    def _root(self, key: str) -> str:
        return join(self.root, key[:16])


def chained_keys(first: str, links: Sequence[object]) -> list[str]:
    """Keys of all beginnings of a sequence, from that of its first item alone to that of all: each tells those before.

    Args:
        first: key of what all have in common.
        links: JSON values, one an item.
    """
    keys = []
    for link in links:
        first = sha256_hex(canonical_json([first, link]))
        keys.append(first)
    return keys
