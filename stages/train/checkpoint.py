"""Checkpoints of a training: files of all ranks put first, a manifest put last; nothing is ever deleted.

They lie below the training artifact's root, at `checkpoints/step-<step>/`. All names end in a digest of the
content, so that a writer that was given up for lost can overwrite nothing.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.artifact import ArtifactWriter, FileEntry, canonical_json, sha256_hex
from pipeline.errors import RunError
from pipeline.storage import Storage, join, relative

FOLDER = "checkpoints"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A committed state from which training goes on."""

    step: int
    """Steps that are done."""
    epoch: int
    """Of the next batch."""
    batch: int
    """The next batch in that epoch."""
    world_size: int
    files: tuple[FileEntry, ...]
    """State of all ranks."""
    ledger: tuple[FileEntry, ...]
    """All parts of the ledger up to here, of all ranks."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the loop wants back, as JSON."""

    def names(self) -> list[str]:
        """Names under which files were put."""
        return [_name_of(file) for file in self.files]

    @property
    def world_sizes(self) -> list[int]:
        """Numbers of ranks that trained up to here, in their order."""
        return [*self.facts.get("world_sizes", []), self.world_size]

    def to_json(self) -> bytes:
        """Canonical JSON with its own digest."""
        body = {"format": FORMAT, **asdict(self)}
        return canonical_json({**body, "digest": sha256_hex(canonical_json(body))})

    @classmethod
    def from_json(cls, data: bytes) -> "Checkpoint":
        """Parse and check.

        Raises:
            ValueError: not JSON, another format, or changed after it was written.
        """
        body = json.loads(data)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise ValueError(f"not a checkpoint's manifest of format {FORMAT}")
        digest = body.pop("digest", None)
        if sha256_hex(canonical_json(body)) != digest:
            raise ValueError("the manifest was changed after it was written")
        body.pop("format")
        files = tuple(FileEntry(**entry) for entry in body.pop("files"))
        ledger = tuple(FileEntry(**entry) for entry in body.pop("ledger"))
        return cls(files=files, ledger=ledger, **body)


class CheckpointStore:
    """Puts and finds the checkpoints of one training; a picklable handle."""

    def __init__(self, writer: ArtifactWriter) -> None:
        """Keep the handle; nothing is read yet."""
        self._writer = writer

    def put(self, step: int, name: str, data: bytes) -> FileEntry:
        """Put one rank's file; names tell ranks apart, such as `rank-00003` or `model`."""
        assert "/" not in name
        return self._writer.put_bytes(f"{_folder(step)}/{name}-{sha256_hex(data)[:16]}.bin", data)

    def commit(
        self,
        *,
        step: int,
        epoch: int,
        batch: int,
        world_size: int,
        files: Sequence[FileEntry],
        ledger: Sequence[FileEntry],
        facts: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Make a checkpoint exist; called once, by rank 0, after all ranks have put their files and ledger parts."""
        checkpoint = Checkpoint(step, epoch, batch, world_size, tuple(files), tuple(ledger), dict(facts or {}))
        data = checkpoint.to_json()
        self._writer.put_bytes(f"{_folder(step)}/manifest-{sha256_hex(data)[:16]}.json", data)
        return checkpoint

    def latest(self) -> Checkpoint | None:
        """The furthest checkpoint that is whole: its manifest parses, all its files are there in their size."""
        storage, root = self._writer.storage, self._writer.root
        manifests = [stat.uri for stat in storage.list(join(root, FOLDER), suffix=".json")]
        if not manifests:
            return None
        sizes = _sizes(storage, root)
        for uri in sorted(manifests, key=lambda uri: relative(root, uri), reverse=True):
            try:
                checkpoint = Checkpoint.from_json(storage.read_bytes(uri))
            except (ValueError, TypeError):
                continue  # half-written or damaged: an earlier one is as good, only further back
            if all(sizes.get(file.path) == file.bytes for file in (*checkpoint.files, *checkpoint.ledger)):
                return checkpoint
        return None

    def read(self, checkpoint: Checkpoint, name: str) -> bytes:
        """One file of a checkpoint, by the name under which it was put.

        Raises:
            RunError: its bytes are not those that were put.
        """
        return self.read_file(next(file for file in checkpoint.files if _name_of(file) == name))

    def read_file(self, entry: FileEntry) -> bytes:
        """One file that a checkpoint lists.

        Raises:
            RunError: its bytes are not those that were put.
        """
        uri = join(self._writer.root, entry.path)
        data = self._writer.storage.read_bytes(uri)
        if sha256_hex(data) != entry.sha256:
            raise RunError(
                "a checkpoint's file differs from its manifest",
                where=uri,
                expected=f"sha256 {entry.sha256}",
                next_step="remove the checkpoint's folder: training then goes on from the one before",
            )
        return data


def dump_state(state: object) -> bytes:
    """State of tensors, numbers, strings, lists and dicts as bytes."""
    import torch  # here, so that stages can name this module without paying for torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load_state(data: bytes) -> Any:
    """What `dump_state` wrote, on the CPU; no code in it is run."""
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _folder(step: int) -> str:
    return f"{FOLDER}/step-{step:09d}"


def _name_of(file: FileEntry) -> str:
    return file.path.rpartition("/")[2].rpartition("-")[0]


def _sizes(storage: Storage, root: str) -> dict[str, int]:
    """Sizes of all files that a checkpoint can list, by path below the root."""
    listed = [*storage.list(join(root, FOLDER)), *storage.list(join(root, "ledger"))]
    return {relative(root, stat.uri): stat.bytes for stat in listed}
