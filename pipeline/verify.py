"""Read a finished run again, from its storage alone, trusting none of its own summaries.

Every manifest carries its own digest and lists each file with length and SHA-256; counts must add up; what a stage was
made from must be there; the subset and the shards must hold each kept uid exactly once. Differences are found, never
mended.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from pipeline.artifact import Artifact, FileEntry, Manifest, sha256_hex
from pipeline.errors import GradsieveError, RunError
from pipeline.graph import MANIFESTS, is_replacing
from pipeline.progress import Bar, Reporter
from pipeline.run_record import read_record, resolve, storage_of
from pipeline.storage import Storage, absolute, join, relative
from pipeline.verify_unlisted import Unlisted, find_unlisted

_CONTENTS = "stages.verify_contents"


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be."""

    artifact: str
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.artifact}: {self.what}\n  where: {self.where}"


@dataclass
class Verdict:
    """What was found."""

    differences: list[Difference] = field(default_factory=list)
    num_artifacts: int = 0
    num_files: int = 0
    num_bytes: int = 0
    unlisted: Unlisted = field(default_factory=Unlisted)
    """What lies beside: orphans, and the stages' private files."""
    unchecked: list[str] = field(default_factory=list)
    """What could not be held against the run, and why."""


def verify(run: str, storage: Storage, reporter: Reporter) -> Verdict:
    """Check every artifact of a run, file by file and sample by sample.

    Args:
        run: output folder or s3:// URI; may be a copy of the place where the run was made.
        storage: how it is reached.
        reporter: shows progress.

    Raises:
        UserError: there is no run.
        RunError: its record is damaged.
    """
    output = absolute(run)
    record = read_record(run, storage)
    storage = storage_of(record, run, storage)
    verdict = Verdict()
    stages = {**_earlier_deliverables(output, storage, record["stages"]), **record["stages"]}
    artifacts = dict(_artifacts(stages, output, storage, verdict))
    verdict.num_artifacts = len(artifacts)
    total = sum(file.bytes for artifact in artifacts.values() for file in artifact.manifest.files)
    with reporter.bar("read", total, "bytes") as bar:
        for name, artifact in artifacts.items():
            verdict.differences += _check_files(name, artifact, bar, verdict)
    readable = not verdict.differences  # what is damaged or gone cannot be counted
    for name, artifact in artifacts.items():
        if "from" not in stages[name]:  # what an earlier run made comes from what that run had
            verdict.differences += _check_lineage(name, artifact, artifacts)
    verdict.unlisted = find_unlisted(output, artifacts, list(stages), storage)
    for name, uri in verdict.unlisted.strays:
        verdict.differences.append(Difference(name, "a file that no manifest lists", uri))
    if readable:
        contents = import_module(_CONTENTS)
        excluded = record["config"].get("select", {}).get("exclude", [])
        found = contents.Contents(artifacts, reporter, excluded, storage)
        verdict.differences += [Difference(*difference) for difference in found.differences()]
        verdict.unchecked += found.unchecked
    return verdict


def _earlier_deliverables(
    output: str, storage: Storage, stages: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Deliverables that lie in the output and are none of the last command's, such as shards behind `--until select`.

    Whoever reads the output takes them for the run's, so they must be whole and fit the rest.
    """
    folder = join(output, MANIFESTS)
    names = [relative(folder, stat.uri).removesuffix(".json") for stat in storage.list(folder, suffix=".json")]
    return {
        name: {"state": "done", "root": name, "manifest": f"{MANIFESTS}/{name}.json"}
        for name in names
        if name not in stages
    }


def _artifacts(
    stages: Mapping[str, Mapping[str, str]], output: str, storage: Storage, verdict: Verdict
) -> Iterator[tuple[str, Artifact]]:
    """Those whose manifest can be read; what is wrong with others goes into the verdict."""
    for name, entry in stages.items():
        if "manifest" not in entry:
            verdict.differences.append(Difference(name, f"the stage is not finished ({entry['state']})", output))
            continue
        uri = resolve(output, entry["manifest"])
        try:
            manifest = _manifest(storage, uri, entry.get("artifact", name))
        except GradsieveError as error:
            verdict.differences.append(Difference(name, str(error).replace("\n", ";"), uri))
            continue
        yield name, Artifact(resolve(output, entry["root"]), manifest, storage)


def _manifest(storage: Storage, uri: str, name: str) -> Manifest:
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        raise RunError("the manifest is gone") from None
    if is_replacing(data):
        raise RunError("its files are being replaced: a run is writing, or died doing so")
    manifest = Manifest.from_json(data, uri)
    if manifest.artifact != name:
        raise RunError("the manifest is of another artifact", expected=name, found=manifest.artifact)
    return manifest


def _check_files(name: str, artifact: Artifact, bar: Bar, verdict: Verdict) -> Iterator[Difference]:
    for file in artifact.files():
        uri = artifact.uri(file.path)
        what = _file_fault(artifact, file)
        if what is not None:
            yield Difference(name, what, uri)
        verdict.num_files += 1
        verdict.num_bytes += file.bytes
        bar.advance(file.bytes)


def _file_fault(artifact: Artifact, file: FileEntry) -> str | None:
    uri = artifact.uri(file.path)
    try:
        size = artifact.storage.stat(uri).bytes
        if size != file.bytes:
            return f"the file has {size} bytes; its manifest lists {file.bytes}"
        if size == 0:
            found = sha256_hex(b"")
        else:
            with artifact.storage.open(uri) as source:
                found = hashlib.file_digest(source, "sha256").hexdigest()
    except FileNotFoundError:
        return "the file is gone"
    return None if found == file.sha256 else f"the file has sha256 {found}; its manifest lists {file.sha256}"


def _check_lineage(name: str, artifact: Artifact, artifacts: Mapping[str, Artifact]) -> Iterator[Difference]:
    """Counts that do not add up; inputs that are no artifact of this run."""
    if artifact.manifest.counts is not None:
        try:
            artifact.manifest.counts.check(name)
        except RunError as error:
            yield Difference(name, str(error).replace("\n", ";"), artifact.root)
    contents = {other.manifest.content for other in artifacts.values()}
    for role, content in artifact.manifest.inputs.items():
        if content not in contents:
            yield Difference(name, f"it was made from another `{role}` than this run has", artifact.root)
