"""`<output>/run.json`: what a run is, how far it came, and where its artifacts lie."""

import json
import platform
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.artifact import Artifact, Manifest, canonical_json, sha256_hex
from pipeline.errors import GradsieveError, RunError, UserError
from pipeline.meter import Meter, Usage
from pipeline.progress import Reporter
from pipeline.storage import BucketConfig, Storage, StorageConfig, absolute, is_s3, join, relative

RECORD_NAME = "run.json"
_PACKAGES = ("gradsieve", "ray", "torch", "open_clip_torch", "polars", "pyarrow", "snorkel", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result, without importing them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunRecord:
    """Written by the one driver of a run at each change; read by `status`, `explain` and the report."""

    def __init__(
        self,
        output: str,
        storage: Storage,
        config: Mapping[str, Any],
        stage_names: list[str],
        meter: Meter | None = None,
    ) -> None:
        """Start a record; nothing is written yet."""
        self._meter = meter or Meter()
        self._lock = threading.Lock()
        self._uri = join(output, RECORD_NAME)
        self._output = output
        self._storage = storage
        self.body: dict[str, Any] = {
            "config": dict(config),
            "config_digest": sha256_hex(canonical_json(config)),
            "argv": sys.argv[1:],
            "versions": versions(),
            "started": now(),
            "finished": None,
            "state": "running",
            "error": None,
            "stages": {name: {"state": "waiting"} for name in stage_names},
        }

    def begin(self, name: str, root: str) -> None:
        """Note that a stage is at work, and where: what lies there is this run's, though nothing is finished yet."""
        self.body["stages"].setdefault(name, {})["root"] = self._portable(root)
        self.stage(name, "running")

    def stage(
        self,
        name: str,
        state: str,
        artifact: Artifact | None = None,
        manifest_uri: str | None = None,
        made_by: Mapping[str, str] | None = None,
    ) -> None:
        """Note a change of one stage and write the record.

        Args:
            name: of the stage's node.
            state: what it is in.
            artifact: what it made, once there is one.
            manifest_uri: of the artifact.
            made_by: of an artifact that an earlier run made and this one takes: `from`, the run, and `artifact`, the
                name that it has there.
        """
        entry: dict[str, Any] = {"state": state, "since": now(), **(made_by or {})}
        if artifact is not None and manifest_uri is not None:
            entry["root"] = self._portable(artifact.root)
            entry["manifest"] = self._portable(manifest_uri)
            entry["rows"] = sum(file.rows for file in artifact.manifest.files)
            if artifact.manifest.counts is not None:
                entry["counts"] = asdict(artifact.manifest.counts)
            entry["seconds"] = artifact.manifest.made_by.get("seconds")
        with self._lock:
            self.body["stages"].setdefault(name, {}).update(entry)
            self._write()

    def finish(self, state: str, error: str | None = None) -> None:
        """Note how the run ended and write the record."""
        with self._lock:
            self.body.update({"state": state, "error": error, "finished": now()})
            self._write()

    def note_usage(self) -> None:
        """Write what was used until now: a driver that is killed later has told of all but the last minute."""
        with self._lock:
            self._write()

    def _portable(self, uri: str) -> str:
        """Relative to the output where it lies below it, so that a copied run still finds its parts."""
        return relative(self._output, uri) if uri.startswith(self._output + "/") else uri

    def _write(self) -> None:
        self.body["used"] = self._meter.usage().to_record()
        self._storage.put(self._uri, sealed(self.body))


def sealed(body: Mapping[str, Any]) -> bytes:
    """A record as JSON that carries its own digest, for people to read as well."""
    return json.dumps({**body, "digest": sha256_hex(canonical_json(body))}, indent=1, ensure_ascii=False).encode()


@contextmanager
def failure_to_write_told(reporter: Reporter) -> Iterator[None]:
    """Warn where the record cannot be written: what made the run fail is the error to tell."""
    try:
        yield
    except (GradsieveError, OSError) as error:
        reporter.warn(f"{RECORD_NAME} could not be written: {str(error).splitlines()[0]}")


def read_record(run: str, storage: Storage) -> dict[str, Any]:
    """The record of a run by its output folder or URI.

    Raises:
        UserError: there is no run.
        RunError: the record is not as the run wrote it.
    """
    uri = join(absolute(run), RECORD_NAME)
    try:
        body: dict[str, Any] = json.loads(storage.read_bytes(uri))
        found = body.pop("digest")
    except FileNotFoundError:
        raise UserError(
            "no run here", where=uri, expected="the output folder of a run", next_step="gradsieve run CONFIG"
        ) from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise _damaged(uri, "JSON object with a digest", f"{type(error).__name__}: {error}") from error
    digest = sha256_hex(canonical_json(body))
    if digest != found:
        raise _damaged(uri, f"content with digest {found}", f"content with digest {digest}")
    return body


def used_before(output: str, storage: Storage, reporter: Reporter) -> Usage:
    """What earlier attempts at an output used; a damaged record is told, and taken for none."""
    try:
        return Usage.from_record(read_record(output, storage).get("used"))
    except UserError:
        return Usage()
    except RunError as error:
        reporter.warn(f"what earlier attempts used is not known: {str(error).splitlines()[0]}")
        return Usage()


def _damaged(uri: str, expected: str, found: str) -> RunError:
    return RunError(
        "the run's record is damaged",
        where=uri,
        expected=expected,
        found=found,
        next_step="restore it, or run the same command again: what is finished is found",
    )


def storage_of(record: Mapping[str, Any], run: str, storage: Storage) -> Storage:
    """Reaches what a run speaks of: its own bucket as `storage` does, since it may be a copy; others as the run did."""
    recorded = StorageConfig.model_validate(record["config"].get("storage", {}))
    names = {uri.removeprefix("s3://").partition("/")[0] for uri in _s3_uris([record["config"], record["stages"]])}
    names.discard(run.removeprefix("s3://").partition("/")[0])
    default = BucketConfig(endpoint_url=recorded.endpoint_url)
    buckets = {name: recorded.buckets.get(name, default) for name in names}
    return Storage(storage.config.model_copy(update={"buckets": {**buckets, **storage.config.buckets}}))


def _s3_uris(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if is_s3(value):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _s3_uris(item)
    elif isinstance(value, list):
        for item in value:
            yield from _s3_uris(item)


def open_artifacts(run: str, storage: Storage) -> dict[str, Artifact]:
    """All finished artifacts of a run, by name, from its storage alone."""
    output = absolute(run)
    record = read_record(run, storage)
    storage = storage_of(record, run, storage)
    found = {}
    for name, entry in record["stages"].items():
        if "manifest" in entry:
            uri = resolve(output, entry["manifest"])
            manifest = Manifest.from_json(storage.read_bytes(uri), uri)
            found[name] = Artifact(resolve(output, entry["root"]), manifest, storage)
    return found


def resolve(output: str, uri: str) -> str:
    """An absolute URI from what the record says, which is relative to the output where it lies below it."""
    return uri if uri.startswith(("/", "s3://")) else join(output, uri)
