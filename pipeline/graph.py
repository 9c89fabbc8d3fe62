"""The graph of stages: dotted names, adjacency of schemas, fingerprints, and what is already done.

A stage's class is imported by its dotted name when the graph is built; such modules import neither torch
nor ray, so that looking at a finished run costs next to nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from pipeline.artifact import MANIFEST_NAME, Artifact, Manifest, canonical_json, sha256_hex
from pipeline.config_base import Config
from pipeline.errors import RunError, UserError
from pipeline.progress import Reporter
from pipeline.schema import Schema
from pipeline.stage import External, ExternalFiles, Stage
from pipeline.storage import Storage, absolute, join, relative

MANIFESTS = "manifests"
"""Folder in an output with the manifests of its deliverables."""


@dataclass(frozen=True)
class Adopted:
    """An artifact of an earlier run that is taken as it is."""

    run: str
    """Output of that run."""
    artifact: str
    """Name under which it was made."""
    fingerprint: str


@dataclass(frozen=True)
class Node:
    """One stage in its place: what makes an artifact of this name, from which others."""

    name: str
    """Name of the artifact, such as `scores/mimic`."""
    label: str
    """What `--until` and progress call it, such as `selectors`."""
    factory: str
    """Dotted name of the stage's class, `module:Class`."""
    config: Config
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Role -> name of the node that makes it."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the class: places and wishes, nothing that changes the result by itself."""
    seeded: bool = False
    """Whether the run's seed is part of its identity."""
    deliverable: bool = False
    """Whether it lies at `<output>/<name>` under fixed names instead of in the store."""
    adopted: Adopted | None = None
    """Taken from an earlier run in the same store instead of being made; such a node has no inputs."""

    def build(self) -> Stage[Config]:
        """Import the class and construct the stage."""
        module, _, name = self.factory.partition(":")
        stage: Stage[Config] = getattr(import_module(module), name)(self.config, **self.arguments)
        return stage


@dataclass(frozen=True)
class Place:
    """Where the artifacts of a run lie."""

    output: str
    store: str
    storage: Storage
    reporter: Reporter = field(default_factory=Reporter)

    def root(self, node: Node, fingerprint: str) -> str:
        """Folder of a node's artifact."""
        if node.deliverable:
            return join(self.output, node.name)
        return join(self.store, node.adopted.artifact if node.adopted else node.name, fingerprint[:16])

    def manifest_uri(self, node: Node, fingerprint: str) -> str:
        """Where the manifest of a node's artifact lies."""
        if node.deliverable:
            return join(self.output, MANIFESTS, f"{node.name}.json")
        return join(self.root(node, fingerprint), MANIFEST_NAME)

    def find(self, node: Node, fingerprint: str) -> Artifact | None:
        """The finished artifact of this fingerprint, if there is one."""
        uri = self.manifest_uri(node, fingerprint)
        try:
            data = self.storage.read_bytes(uri)
        except FileNotFoundError:
            return None
        if node.deliverable and is_replacing(data):
            return None
        manifest = Manifest.from_json(data, uri)
        if manifest.fingerprint != fingerprint:
            return None
        artifact = Artifact(self.root(node, fingerprint), manifest, self.storage)
        faults = artifact.faults()
        if faults:
            self.reporter.warn(f"{node.name}: {faults[0]}; it is made again")
            return None
        return artifact


def is_replacing(manifest: bytes) -> bool:
    """Whether a deliverable's manifest only says that its files are being replaced."""
    return manifest.startswith(b'{"replacing":')


class Graph:
    """Nodes in an order in which they can run, with their stages."""

    def __init__(
        self,
        nodes: Sequence[Node],
        place: Place,
        seed: int,
        listings: dict[tuple[str, str], ExternalFiles] | None = None,
    ) -> None:
        """Build every stage and check that neighbours fit.

        Args:
            nodes: in an order in which they can run.
            place: where their artifacts lie.
            seed: of the run.
            listings: of external inputs, where another graph has listed them already.

        Raises:
            UserError: a stage needs columns that its input does not give.
        """
        self.nodes = list(nodes)
        self.place = place
        self.seed = seed
        self.stages = {node.name: node.build() for node in nodes}
        self.listings = listings if listings is not None else {}
        self._check_adjacency()

    def external(self, node: Node) -> dict[str, ExternalFiles]:
        """A node's inputs from outside the run, as they were when this graph first asked.

        The shards of a large pool are millions of objects, minutes of listing, and many stages name them.

        Raises:
            UserError: one of them is not there.
        """
        if node.adopted is not None:
            return {}
        return {role: self._listed(declared) for role, declared in self.stages[node.name].external().items()}

    def _listed(self, declared: External) -> ExternalFiles:
        place = (absolute(declared.uri), declared.suffix)
        if place not in self.listings:
            self.listings[place] = list_external(declared, self.place.storage)
        return self.listings[place]

    def fingerprint(self, node: Node, inputs: Mapping[str, Artifact], external: Mapping[str, ExternalFiles]) -> str:
        """Digest of literal config, content of inputs, version: equal fingerprints, equal results."""
        if node.adopted is not None:
            return node.adopted.fingerprint
        contents = {role: artifact.manifest.content for role, artifact in inputs.items()}
        return self.fingerprint_over(node, contents, external)

    def fingerprint_over(self, node: Node, contents: Mapping[str, str], external: Mapping[str, ExternalFiles]) -> str:
        """The same, from content digests of the inputs by role."""
        stage = self.stages[node.name]
        declared = stage.external()
        identity = {
            "stage": node.factory,
            "version": stage.version,
            "name": node.name,
            "config": node.config.identity(),
            "seed": self.seed if node.seeded else None,
            "inputs": dict(contents),
            "external": {role: _listing(files) for role, files in external.items() if declared[role].identity},
        }
        return sha256_hex(canonical_json(identity))

    def done(self, *, tolerate_missing: bool = False) -> dict[str, Artifact]:
        """All artifacts that are there already, by node name; what depends on undone work is not.

        Args:
            tolerate_missing: take missing external input as undone work instead of an error.
        """
        found: dict[str, Artifact] = {}
        for node in self.nodes:
            if not all(source in found for source in node.inputs.values()):
                continue
            try:
                external = self.external(node)
            except UserError:
                if tolerate_missing:
                    continue
                raise
            inputs = {role: found[source] for role, source in node.inputs.items()}
            artifact = self.place.find(node, self.fingerprint(node, inputs, external))
            if artifact is not None:
                found[node.name] = artifact
        return found

    def _check_adjacency(self) -> None:
        gives = {name: stage.gives for name, stage in self.stages.items()}
        for node in self.nodes:
            takes = self.stages[node.name].takes
            for role, source in node.inputs.items():
                wanted = takes.get(role, takes.get(role.partition("/")[0], Schema()))
                missing = wanted.missing_from(gives[source])
                if missing:
                    raise UserError(
                        f"stage {node.name} needs columns that {source} does not give",
                        where=node.factory,
                        expected=missing,
                        found=dict(gives[source].columns),
                    )


def upto(nodes: Sequence[Node], label: str) -> list[Node]:
    """The nodes of a label and all that they depend on.

    Raises:
        UserError: no node has that label.
    """
    labels = list(dict.fromkeys(node.label for node in nodes))
    if label not in labels:
        raise UserError("no such stage", expected=f"one of {', '.join(labels)}", found=label)
    wanted = {node.name for node in nodes if node.label == label}
    for node in reversed(nodes):
        if node.name in wanted:
            wanted |= set(node.inputs.values())
    return [node for node in nodes if node.name in wanted]


def list_external(declared: External, storage: Storage) -> ExternalFiles:
    """A declared file, or all files below a declared folder.

    Raises:
        UserError: nothing is there.
    """
    uri = absolute(declared.uri)
    try:
        return ExternalFiles(uri, (storage.stat(uri),))
    except FileNotFoundError:
        found = storage.list(uri, suffix=declared.suffix)
    if not found:
        kind = f"files ending in {declared.suffix}" if declared.suffix else "a file, or a folder with files"
        raise UserError("input is not there", where=uri, expected=kind, found="nothing", next_step=declared.missing)
    return ExternalFiles(uri, tuple(found))


def _listing(files: ExternalFiles) -> str:
    rows: Iterable[list[object]] = (
        [relative(files.uri, stat.uri) if stat.uri != files.uri else "", stat.bytes, stat.version]
        for stat in files.files
    )
    return sha256_hex(canonical_json(list(rows)))


def require_finished(found: Mapping[str, Artifact], name: str, output: str) -> Artifact:
    """An artifact that must be there.

    Raises:
        RunError: it is not.
    """
    if name not in found:
        raise RunError(f"the run has no {name} yet", where=output, next_step="finish it with `gradsieve run`")
    return found[name]
