"""Run a stage by hand: contexts and committed artifacts without a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.artifact import Artifact, ArtifactWriter, Manifest, sha256_hex
from pipeline.config_base import Config
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from pipeline.reuse import Entries
from pipeline.stage import ExternalFiles, Stage, StageContext, StageResult
from pipeline.storage import Storage, absolute


def commit(root: Path, name: str, result: StageResult, storage: Storage | None = None) -> Artifact:
    """What the runner does with a stage's result: check its counts, put the manifest."""
    if result.counts is not None:
        result.counts.check(name)
    manifest = Manifest(name, "0" * 64, {}, result.files, result.summary, result.counts, entries=result.entries)
    storage = storage or Storage()
    storage.put(f"{root}/manifest.json", manifest.to_json())
    return Artifact(str(root), Manifest.from_json(manifest.to_json(), str(root)), storage)


def with_file(artifact: Artifact, path: str, data: bytes) -> Artifact:
    """The artifact as if it had been made with these bytes: its manifest lists them."""
    artifact.storage.put(artifact.uri(path), data)
    files = (
        replace(file, bytes=len(data), sha256=sha256_hex(data)) if file.path == path else file
        for file in artifact.manifest.files
    )
    return replace(artifact, manifest=replace(artifact.manifest, files=tuple(files)))


def listed(uri: Path | str, suffix: str = "") -> ExternalFiles:
    """An external input as the graph lists it."""
    root = absolute(str(uri))
    storage = Storage()
    files = (storage.stat(root),) if Path(root).is_file() else tuple(storage.list(root, suffix=suffix))
    return ExternalFiles(root, files)


def context(
    root: Path,
    *,
    inputs: Mapping[str, Artifact] | None = None,
    external: Mapping[str, ExternalFiles] | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    keeps: Sequence[str] = (),
    store: Path | None = None,
) -> StageContext:
    """A context that writes below `root`, entries too unless a store is given; in-process unless an engine is given."""
    reporter = Reporter()
    return StageContext(
        inputs=inputs or {},
        external=external or {},
        output=ArtifactWriter(str(root), Storage()),
        storage=Storage(),
        engine=engine or Engine(ClusterConfig(executor="in_process"), reporter),
        reporter=reporter,
        seed=seed,
        entries={kind: Entries.of(str(store or root), kind, Storage()) for kind in keeps},
    )


def run_stage(
    stage: Stage[Config],
    root: Path,
    name: str,
    *,
    inputs: Mapping[str, Artifact] | None = None,
    external: Mapping[str, ExternalFiles] | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    store: Path | None = None,
) -> Artifact:
    """Run a stage and commit what it made."""
    own = context(root, inputs=inputs, external=external, engine=engine, seed=seed, keeps=stage.keeps, store=store)
    result = stage.run(own)
    return commit(root, name, result)
