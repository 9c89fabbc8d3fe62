"""Runs a graph: skip what is done, check everything first, run the rest, commit each manifest last."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from pipeline.artifact import Artifact, ArtifactWriter, Counts, Manifest, canonical_json
from pipeline.engine import Engine
from pipeline.errors import RunError
from pipeline.graph import Graph, Node, is_replacing
from pipeline.meter import LimitReachedError
from pipeline.metrics import count, show
from pipeline.progress import Reporter
from pipeline.reuse import Entries
from pipeline.run_record import RunRecord, failure_to_write_told, versions
from pipeline.stage import ExternalFiles, StageContext, StageResult
from pipeline.storage import AlreadyExistsError, ConflictError, Storage, join

_MOST_CONFLICTS = 4


class Runner:
    """Executes the undone nodes of a graph, one after the other, in one process."""

    def __init__(self, graph: Graph, engine: Engine, reporter: Reporter) -> None:
        """Nothing is touched yet."""
        self._graph = graph
        self._engine = engine
        self._reporter = reporter
        self._place = graph.place

    def preflight(self, done: Mapping[str, Artifact]) -> None:
        """Let every undone stage refuse what cannot work, before the first one starts.

        Raises:
            UserError: from the first stage that does not fit its input.
        """
        for node in self._graph.nodes:
            if node.name not in done:
                external = self._graph.external(node)
                scope = [files.uri for files in external.values()]
                self._graph.stages[node.name].preflight(external, self._place.storage.limited(scope, []))

    def run(self, record: RunRecord) -> dict[str, Artifact]:
        """Run what is undone; the finished artifacts by node name.

        Raises:
            GradsieveError: from the stage that failed; what was finished before it stays.
            LimitReachedError: the run has used what it may, between two stages or in one of them.
        """
        finished: dict[str, Artifact] = {}
        for node in self._graph.nodes:
            inputs = {role: finished[source] for role, source in node.inputs.items()}
            external = self._graph.external(node)
            fingerprint = self._graph.fingerprint(node, inputs, external)
            uri = self._place.manifest_uri(node, fingerprint)
            artifact = self._place.find(node, fingerprint)
            if artifact is not None:
                record.stage(node.name, "reused", artifact, uri, made_by=_earlier_run(node))
                self._tell(node, "reused", artifact)
            elif node.adopted is not None:
                raise RunError(
                    "an artifact of an earlier run, which this one takes, is not there any longer",
                    where=uri,
                    expected=f"{node.adopted.artifact} of {node.adopted.run}",
                    next_step="run again; without `grow_from` all is made anew",
                )
            else:
                self._engine.meter.check(f"{node.name}, which has not begun")
                record.begin(node.name, self._place.root(node, fingerprint))
                self._tell(node, "running")
                show("stage_running", 1, stage=node.name)
                self._reporter.say(f"{node.name}: running")
                try:
                    artifact = self._run_node(node, inputs, external, fingerprint)
                except BaseException as error:
                    self._tell(node, "failed")
                    count("stage_failures", stage=node.name)
                    with failure_to_write_told(self._reporter):
                        record.stage(node.name, "stopped" if isinstance(error, LimitReachedError) else "failed")
                    raise
                finally:
                    show("stage_running", 0, stage=node.name)
                record.stage(node.name, "done", artifact, uri)
                self._tell(node, "done", artifact)
                self._reporter.say(f"{node.name}: {_outcome(artifact)}")
            finished[node.name] = artifact
        return finished

    def _tell(self, node: Node, state: str, artifact: Artifact | None = None) -> None:
        """For the run's log: a stage's state, and once there is one what its manifest counts."""
        fields: dict[str, object] = {"stage": node.name, "state": state}
        if artifact is not None:
            counts = artifact.manifest.counts
            fields |= {
                "counts": asdict(counts) if counts else None,
                "seconds": artifact.manifest.made_by.get("seconds"),
            }
        self._reporter.event("stage", fields)

    def _run_node(
        self, node: Node, inputs: Mapping[str, Artifact], external: Mapping[str, ExternalFiles], fingerprint: str
    ) -> Artifact:
        begun = time.time()
        root = self._place.root(node, fingerprint)
        readable = [artifact.root for artifact in inputs.values()] + [files.uri for files in external.values()]
        keeps, store = self._graph.stages[node.name].keeps, self._place.store
        kept = {kind: Entries.of(store, kind, self._place.storage) for kind in keeps}
        storage = self._place.storage.limited(readable, [root, *(entries.root for entries in kept.values())])
        uri = self._place.manifest_uri(node, fingerprint)
        context = StageContext(
            inputs={role: replace(artifact, storage=storage) for role, artifact in inputs.items()},
            external=external,
            output=ArtifactWriter(root, storage, overwrite=node.deliverable),
            storage=storage,
            engine=self._engine,
            reporter=self._reporter,
            seed=self._graph.seed,
            entries={kind: replace(entries, storage=storage) for kind, entries in kept.items()},
        )

        def make() -> Manifest:
            result = self._graph.stages[node.name].run(context)
            if result.counts is not None:
                result.counts.check(node.name)
                _show_rows(node.name, result.counts)
            return _manifest(node, fingerprint, inputs, result, time.time() - begun)

        if node.deliverable:
            manifest = _replace_deliverable(self._place.storage, root, uri, fingerprint, make)
            return Artifact(root, manifest, self._place.storage)
        return self._commit_once(node, root, uri, make())

    def _commit_once(self, node: Node, root: str, uri: str, manifest: Manifest) -> Artifact:
        try:
            self._place.storage.put_once(uri, manifest.to_json())
        except AlreadyExistsError:
            first = Manifest.from_json(self._place.storage.read_bytes(uri), uri)
            if first.content != manifest.content:
                self._reporter.warn(
                    f"{node.name}: another run finished this first, with other bytes; its result is used"
                )
            return Artifact(root, first, self._place.storage)
        return Artifact(root, manifest, self._place.storage)


def check_end_to_end(finished: Mapping[str, Artifact]) -> None:
    """Samples seen in tars = kept + dropped + quarantined, and shards hold just the kept ones.

    Raises:
        RunError: they do not add up.
    """
    if "subset" not in finished:
        return
    pool, subset = finished["pool"].summary, finished["subset"].summary
    accounted = subset["kept"] + sum(subset["dropped"].values()) + pool["quarantined"]
    if accounted != pool["samples"]:
        raise RunError(
            "samples are unaccounted for, end to end",
            expected=f"{pool['samples']} seen in the pool",
            found=f"{subset['kept']} kept + {subset['dropped']} dropped + {pool['quarantined']} quarantined",
        )
    if "shards" in finished and finished["shards"].summary["samples"] != subset["kept"]:
        raise RunError(
            "shards do not hold what was kept", expected=subset["kept"], found=finished["shards"].summary["samples"]
        )


def _replace_deliverable(
    storage: Storage, root: str, uri: str, fingerprint: str, make: Callable[[], Manifest]
) -> Manifest:
    """Claim, make, commit, remove what is superseded; the manifest that stands in the end.

    Where another run commits the same deliverable meanwhile, with the same content, its manifest stands. With other
    content (the report of a run tells seconds) files of both lie mixed: it is made again, undisturbed by then.

    Raises:
        ConflictError: another run keeps changing it.
    """
    for _ in range(_MOST_CONFLICTS):
        try:
            claim = _claim_deliverable(storage, uri, fingerprint)
        except ConflictError:
            continue
        manifest = make()
        try:
            storage.compare_and_swap(uri, claim, manifest.to_json())
        except ConflictError:
            other = _committed(storage, uri)
            if other is not None and (other.fingerprint, other.content) == (fingerprint, manifest.content):
                return other
            continue
        _remove_superseded(storage, root, claim, manifest)
        return manifest
    raise ConflictError(
        "another run keeps changing a deliverable",
        where=uri,
        next_step="wait for it to end and run the same command again",
    )


def _committed(storage: Storage, uri: str) -> Manifest | None:
    data = storage.read_bytes(uri)
    return None if is_replacing(data) else Manifest.from_json(data, uri)


def _claim_deliverable(storage: Storage, uri: str, fingerprint: str) -> bytes:
    """Say in the manifest that its files are being replaced, so that no half-replaced state is taken for whole."""
    try:
        old: bytes | None = storage.read_bytes(uri)
    except FileNotFoundError:
        old = None
    if old is None:
        paths: list[str] = []
    elif is_replacing(old):
        paths = _json(old)["replacing"]
    else:
        paths = [file.path for file in Manifest.from_json(old, uri).files]
    claim = canonical_json({"replacing": paths, "with": fingerprint})
    if claim != old:
        storage.compare_and_swap(uri, old, claim)
    return claim


def _remove_superseded(storage: Storage, root: str, claim: bytes, manifest: Manifest) -> None:
    """Remove the files that the replaced manifest alone listed."""
    listed = {file.path for file in manifest.files}
    for path in _json(claim)["replacing"]:
        if path not in listed:
            storage.delete(join(root, path))


def _json(data: bytes) -> dict[str, list[str]]:
    value: dict[str, list[str]] = json.loads(data)
    return value


def _manifest(
    node: Node, fingerprint: str, inputs: Mapping[str, Artifact], result: StageResult, seconds: float
) -> Manifest:
    return Manifest(
        artifact=node.name,
        fingerprint=fingerprint,
        inputs={role: artifact.manifest.content for role, artifact in inputs.items()},
        files=tuple(sorted(result.files, key=lambda file: file.path)),
        summary=result.summary,
        counts=result.counts,
        made_by={
            "seconds": round(seconds, 3),
            "timings": dict(result.timings),
            "versions": versions(),
            "argv": sys.argv[1:],
        },
        entries=tuple(sorted(set(result.entries))),
    )


def _earlier_run(node: Node) -> dict[str, str]:
    """For the record: of what run an artifact is, and under what name."""
    return {} if node.adopted is None else {"from": node.adopted.run, "artifact": node.adopted.artifact}


def _show_rows(stage: str, counts: Counts) -> None:
    for fate, rows in (("in", counts.seen), ("out", counts.out), ("quarantined", counts.quarantined)):
        show("stage_rows", rows, stage=stage, fate=fate, reason="")
    for reason, rows in counts.dropped.items():
        show("stage_rows", rows, stage=stage, fate="dropped", reason=reason)


def _outcome(artifact: Artifact) -> str:
    counts, seconds = artifact.manifest.counts, artifact.manifest.made_by["seconds"]
    if counts is None:
        return f"done in {seconds:.1f} s"
    parts = [f"{counts.seen:,} in", f"{counts.out:,} out"]
    parts += [f"{number:,} {reason}" for reason, number in counts.dropped.items() if number]
    if counts.quarantined:
        parts.append(f"{counts.quarantined:,} quarantined")
    return f"done in {seconds:.1f} s; {', '.join(parts)}"
