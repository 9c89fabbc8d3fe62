"""Objects in parts: visible only when completed, aborted when anything fails; a lost completion is known for ours."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from pipeline import storage_s3_multipart
from pipeline.errors import RunError
from pipeline.storage import Storage, join
from pipeline.storage_s3_requests import FileSource, Requests
from tests.object_store.conftest import storage_through
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.fixtures import Store

LOST_OR_REFUSED: tuple[Fault, ...] = ("reset_before", "slow_down", "internal_error", "reset_after")
DATA = os.urandom(200_000)


@pytest.mark.parametrize("fault", LOST_OR_REFUSED)
@pytest.mark.parametrize("step", ["POST", "PUT", "uploadId=", "HEAD"])
def test_upload_in_parts_after_faults_is_whole(
    step: str,
    fault: Fault,
    proxy: FaultProxy,
    through: Storage,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _lower_limits(monkeypatch)
    data = os.urandom(11 << 20)
    (tmp_path / "big").write_bytes(data)
    through.put(join(place, "first"), b"")  # the question for conditions comes before the plan
    through.put_once(join(place, "asked"), b"")
    proxy.plan(fault, only=step)
    through.put_file(join(place, "big"), tmp_path / "big", overwrite=False)
    assert hashlib.sha256(through.read_bytes(join(place, "big"))).digest() == hashlib.sha256(data).digest()


LOST_COMPLETIONS: dict[str, tuple[Fault, ...]] = {
    "upload gone": ("pass", "reset_after"),  # the second attempt finds no such upload
    "412 for our own": ("pass", "reset_after", "taken"),  # it meets what the first one made
}
"""Faults of the two POSTs of an upload in parts, its beginning and its completion."""


@pytest.mark.parametrize("name", LOST_COMPLETIONS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_lost_completion_of_parts_is_recognised(
    name: str,
    overwrite: bool,
    store: Store,
    proxy: FaultProxy,
    through: Storage,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _lower_limits(monkeypatch, limit=1000)
    (tmp_path / "big").write_bytes(DATA)
    through.put_once(join(place, "asked"), b"")
    proxy.plan(*LOST_COMPLETIONS[name], only="POST")
    through.put_file(join(place, "big"), tmp_path / "big", overwrite=overwrite)
    assert through.read_bytes(join(place, "big")) == DATA
    assert _unfinished_uploads(store, place) == []


@pytest.mark.parametrize("faults", [(), ("pass", "taken"), ("pass", "reset_before", "taken")])
def test_upload_in_parts_to_a_taken_name_is_refused_and_aborted(
    faults: tuple[Fault, ...],
    store: Store,
    proxy: FaultProxy,
    through: Storage,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the name is seen to be taken before the completion, or by it, at the first attempt or the second."""
    _lower_limits(monkeypatch, limit=1000)
    (tmp_path / "big").write_bytes(DATA)
    through.put_once(join(place, "asked"), b"")
    look = storage_s3_multipart._exists

    def look_too_early(requests: Requests, uri: str) -> bool:
        found = look(requests, uri)
        store.storage().put(uri, b"theirs")
        return found

    if faults:
        monkeypatch.setattr(storage_s3_multipart, "_exists", look_too_early)
    else:
        through.put(join(place, "big"), b"theirs")
    proxy.plan(*faults, only="POST")
    with pytest.raises(FileExistsError):
        through.put_file(join(place, "big"), tmp_path / "big", overwrite=False)
    assert through.read_bytes(join(place, "big")) == b"theirs"
    assert _unfinished_uploads(store, place) == []


@pytest.mark.parametrize("step", ["POST", "partNumber"])
def test_upload_in_parts_that_fails_is_aborted_and_invisible(
    step: str, store: Store, proxy: FaultProxy, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lower_limits(monkeypatch)
    (tmp_path / "big").write_bytes(os.urandom(6 << 20))
    storage = storage_through(proxy, max_attempts=2)
    storage.put_once(join(place, "asked"), b"")
    proxy.plan("pass", "internal_error", "internal_error", only=step)
    with pytest.raises(RunError, match="object store failed"):
        storage.put_file(join(place, "big"), tmp_path / "big", overwrite=True)
    assert not storage.exists(join(place, "big"))
    assert any(request.startswith("DELETE") and "uploadId" in request for request in proxy.requests)
    assert _unfinished_uploads(store, place) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_upload_in_parts_that_is_broken_off_here_is_aborted(
    error: type[BaseException], store: Store, through: Storage, place: str, tmp_path: Path, monkeypatch: Any
) -> None:
    _lower_limits(monkeypatch)
    (tmp_path / "big").write_bytes(bytes(6 << 20))
    read = FileSource.part

    def part(self: FileSource, offset: int, length: int) -> bytes:
        if offset:
            assert _unfinished_uploads(store, place) == [join(place, "big")]
            raise error("local")
        return read(self, offset, length)

    monkeypatch.setattr(FileSource, "part", part)
    with pytest.raises(error, match="local"):
        through.put_file(join(place, "big"), tmp_path / "big")
    assert not through.exists(join(place, "big"))
    assert _unfinished_uploads(store, place) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_upload_in_parts_that_somebody_aborted_is_told_and_not_taken_for_done(
    overwrite: bool,
    store: Store,
    proxy: FaultProxy,
    through: Storage,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _lower_limits(monkeypatch, limit=1000)
    (tmp_path / "big").write_bytes(DATA)
    through.put_once(join(place, "asked"), b"")
    proxy.plan("pass", "no_upload", only="POST")
    with pytest.raises(RunError, match="upload in parts was lost"):
        through.put_file(join(place, "big"), tmp_path / "big", overwrite=overwrite)
    assert not through.exists(join(place, "big"))
    assert _unfinished_uploads(store, place) == []


def _unfinished_uploads(store: Store, place: str) -> list[str]:
    """Uploads in parts below a place that were neither completed nor aborted, as another client lists them."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    client = S3FileSystem(endpoint_url=store.endpoint, skip_instance_cache=True)
    listed = client.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix + "/")
    return [f"s3://{bucket}/{upload['Key']}" for upload in listed.get("Uploads") or []]


def _lower_limits(monkeypatch: pytest.MonkeyPatch, *, limit: int = 5 << 20) -> None:
    monkeypatch.setattr(storage_s3_multipart, "SINGLE_PUT_LIMIT", limit)
    monkeypatch.setattr(storage_s3_multipart, "PART_BYTES", 5 << 20)  # the least that stores accept
