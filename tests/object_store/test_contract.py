"""What every store must do, on S3 servers with and without conditional puts, alone and contended."""

import io
import logging
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from pipeline import storage_s3, storage_s3_multipart
from pipeline.errors import RunError, UserError
from pipeline.storage import AlreadyExistsError, ConflictError, Storage, StorageConfig, join, relative
from pipeline.storage_s3_requests import Requests
from tests.object_store.conftest import forget_stores, storage_through
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.fixtures import Store


def test_store_keeps_the_contract(store: Store, place: str, tmp_path: Path) -> None:
    storage = store.storage()
    storage.put(join(place, "a/b"), b"0123456789")
    assert storage.read_bytes(join(place, "a/b")) == b"0123456789"
    assert storage.read_range(join(place, "a/b"), 3, 4) == b"3456"
    assert storage.stat(join(place, "a/b")).bytes == 10
    for offset, length in ((5, 10), (100, 1)):
        with pytest.raises(RunError, match="shorter"):
            storage.read_range(join(place, "a/b"), offset, length)
    storage.put(join(place, "empty"), b"")
    assert storage.read_bytes(join(place, "empty")) == b""
    storage.put_once(join(place, "once"), b"same")
    storage.put_once(join(place, "once"), b"same")
    with pytest.raises(AlreadyExistsError):
        storage.put_once(join(place, "once"), b"other")
    (tmp_path / "file").write_bytes(b"from disk")
    with pytest.raises(FileExistsError):
        storage.put_file(join(place, "once"), tmp_path / "file", overwrite=False)
    (tmp_path / "file").write_bytes(b"from disk")
    storage.put_file(join(place, "once"), tmp_path / "file")
    assert storage.read_bytes(join(place, "once")) == b"from disk"
    storage.delete(join(place, "once"))
    storage.delete(join(place, "once"))
    assert not storage.exists(join(place, "once"))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(join(place, "once"))
    assert [relative(place, stat.uri) for stat in storage.list(place)] == ["a/b", "empty"]
    assert storage.list(join(place, "nothing")) == []


def test_swap_replaces_only_what_it_expected(store: Store, place: str) -> None:
    storage, uri = store.storage(), join(place, "swap")
    storage.compare_and_swap(uri, None, b"1")
    for old in (None, b"0"):
        with pytest.raises(ConflictError):
            storage.compare_and_swap(uri, old, b"2")
    storage.compare_and_swap(uri, b"1", b"2")
    assert storage.read_bytes(uri) == b"2"
    with pytest.raises(ConflictError):
        storage.compare_and_swap(join(place, "absent"), b"1", b"2")


def test_many_writers_have_one_winner_a_round(rgw_store: Store) -> None:
    """On a real store: in each round all swap the same content; exactly one succeeds, and its bytes are there."""
    rgw_store.make_bucket("pool-bucket")
    with rgw_store.signed():
        storage, uri, rounds, writers = rgw_store.storage(), "s3://pool-bucket/contended/swap", 20, 8
        barrier = threading.Barrier(writers)

        def contend(writer: int) -> list[bool]:
            won = []
            for number in range(rounds):
                old = storage.read_bytes(uri) if number else None
                barrier.wait(30)
                try:
                    storage.compare_and_swap(uri, old, f"{number} by {writer}".encode())
                    won.append(True)
                except ConflictError:
                    won.append(False)
                barrier.wait(30)
            return won

        with ThreadPoolExecutor(writers) as pool:
            wins = list(pool.map(contend, range(writers)))
        assert [sum(round_) for round_ in zip(*wins, strict=True)] == [1] * rounds
        last = next(writer for writer, won in enumerate(wins) if won[-1])
        assert storage.read_bytes(uri) == f"{rounds - 1} by {last}".encode()


def test_many_puts_of_one_name_keep_the_first(rgw_store: Store) -> None:
    rgw_store.make_bucket("pool-bucket")
    with rgw_store.signed():
        storage, writers = rgw_store.storage(), 8
        barrier = threading.Barrier(writers)

        def contend(uri: str, writer: int) -> bool:
            barrier.wait(30)
            try:
                storage.put_once(uri, str(writer).encode())
            except AlreadyExistsError:
                return False
            return True

        for number in range(10):
            uri = f"s3://pool-bucket/contended/once-{number}"
            with ThreadPoolExecutor(writers) as pool:
                won = list(pool.map(contend, [uri] * writers, range(writers)))
            assert sum(won) == 1
            assert storage.read_bytes(uri) == str(won.index(True)).encode()


@pytest.mark.parametrize("kind", ["no_conditions", "no_if_none_match", "not_implemented"])
def test_store_without_conditional_puts_is_noticed_and_names_are_looked_up(
    kind: Fault,
    store: Store,
    proxy: FaultProxy,
    place: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if store.name == "rgw" and kind != "not_implemented":
        pytest.skip("the signature covers the conditions, so they cannot be taken from it on the way")
    monkeypatch.setattr(storage_s3, "SETTLE_SECONDS", 0.0)
    proxy.always(kind)
    forget_stores()
    storage = storage_through(proxy)
    with caplog.at_level(logging.WARNING):
        storage.put_once(join(place, "once"), b"same")
    assert "no conditional puts" in caplog.text
    storage.put_once(join(place, "once"), b"same")
    with pytest.raises(AlreadyExistsError):
        storage.put_once(join(place, "once"), b"other")
    (tmp_path / "local").write_bytes(b"local")
    with pytest.raises(FileExistsError):
        storage.put_file(join(place, "once"), tmp_path / "local", overwrite=False)
    storage.compare_and_swap(join(place, "swap"), None, b"1")
    storage.compare_and_swap(join(place, "swap"), b"1", b"2")
    for old in (None, b"1"):
        with pytest.raises(ConflictError):
            storage.compare_and_swap(join(place, "swap"), old, b"3")
    assert storage.read_bytes(join(place, "swap")) == b"2"
    assert storage.read_bytes(join(place, "once")) == b"same"
    assert _everything(store, place) == ["once", "swap"]
    forget_stores()


def test_swaps_without_conditions_that_cross_have_one_winner(
    store: Store, proxy: FaultProxy, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find the name free before either puts; the one that is overwritten learns so when it looks again."""
    monkeypatch.setattr(storage_s3, "SETTLE_SECONDS", 0.5)
    proxy.always("not_implemented")
    forget_stores()
    storage, uri, both = storage_through(proxy), join(place, "swap"), threading.Barrier(2)
    storage.put_once(join(place, "asked"), b"")
    send = Requests.send

    def meet(self: Requests, method: str, uri: str, **arguments: object) -> object:
        if method == "put_object":
            both.wait(30)
        return send(self, method, uri, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Requests, "send", meet)

    def contend(writer: bytes) -> bool:
        try:
            storage.compare_and_swap(uri, None, writer)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(contend, [b"one", b"two"]))
    assert sum(won) == 1
    assert storage.read_bytes(uri) == [b"one", b"two"][won.index(True)]
    forget_stores()


def test_question_for_conditions_leaves_nothing(store: Store, place: str) -> None:
    forget_stores()
    store.storage().put_once(join(place, "once"), b"x")
    assert _everything(store, place) == ["once"]


def _everything(store: Store, place: str) -> list[str]:
    """Names below a place as another client lists them, hidden ones too."""
    found = S3FileSystem(endpoint_url=store.endpoint, skip_instance_cache=True).find(place)
    return sorted(name.rpartition("/")[2] for name in found)


def test_listing_of_several_pages_is_whole(store: Store, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_s3, "LIST_PAGE", 7)
    storage = store.storage()
    for number in range(30):
        storage.put(join(place, f"{number:05d}"), b"x")
    found = storage.list(place)
    assert [relative(place, stat.uri) for stat in found] == [f"{number:05d}" for number in range(30)]


def test_listing_leaves_out_hidden_names_as_on_disk(store: Store, place: str) -> None:
    storage = store.storage()
    for name in ("a", ".hidden", "b/.c", "b/d é+ü&.tar"):
        storage.put(join(place, name), b"x")
    assert [relative(place, stat.uri) for stat in storage.list(place)] == ["a", "b/d é+ü&.tar"]


def test_object_in_parts_is_equal_and_opens_like_a_file(
    store: Store, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3_multipart, "SINGLE_PUT_LIMIT", 5 << 20)
    monkeypatch.setattr(storage_s3_multipart, "PART_BYTES", 5 << 20)
    data = os.urandom((5 << 20) + 7)
    (tmp_path / "big").write_bytes(data)
    storage = store.storage()
    storage.put_file(join(place, "big"), tmp_path / "big", overwrite=False)
    assert storage.stat(join(place, "big")).bytes == len(data)
    with storage.open(join(place, "big")) as opened:
        assert opened.read() == data
        opened.seek(-9, io.SEEK_END)
        assert opened.read() == data[-9:]


def test_wrong_secret_is_told_without_any_secret(rgw_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rgw_store.make_bucket("pool-bucket")
    with rgw_store.signed():
        for variable, value, code in (
            ("AWS_SECRET_ACCESS_KEY", "wrong-and-private", "SignatureDoesNotMatch"),
            ("AWS_ACCESS_KEY_ID", "nobody-and-private", "InvalidAccessKeyId"),
        ):
            with monkeypatch.context() as patch:
                patch.setenv(variable, value)
                storage = rgw_store.storage()
                with pytest.raises(UserError, match="refused the credentials") as caught:
                    rgw_store.storage(call_timeout=299.0 if code[0] == "S" else 298.0).list("s3://pool-bucket/x")
            assert code in str(caught.value)
            assert "environment, shared credentials file" in str(caught.value)
            for secret in (value, *rgw_store.environment.values()):
                if secret != "us-east-1":
                    assert (
                        secret
                        not in f"{caught.value!r}{pickle.dumps(caught.value)!r}{storage!r}{pickle.dumps(storage)!r}"
                    )


def test_no_credentials_at_all_names_the_chain(store: Store, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(UserError, match="no usable credentials") as caught:
        store.storage(call_timeout=297.0).read_bytes(join(place, "a"))
    assert "AWS_PROFILE" in str(caught.value)


def test_unknown_profile_is_told_by_name(store: Store, place: str) -> None:
    buckets = {"pool-bucket": {"profile": "of-nobody"}}
    with pytest.raises(UserError, match="of-nobody"):
        store.storage(buckets=buckets).read_bytes(join(place, "a"))


def test_absent_bucket_is_told(store: Store) -> None:
    storage = store.storage()
    for attempt in (
        lambda: storage.put("s3://no-such-bucket-here/a", b""),
        lambda: storage.list("s3://no-such-bucket-here/a"),
        lambda: storage.read_bytes("s3://no-such-bucket-here/a"),
    ):
        with pytest.raises(UserError, match="no such bucket") as caught:
            attempt()
        assert "no-such-bucket-here" in str(caught.value)
        assert store.endpoint in str(caught.value)


@pytest.mark.parametrize("url", ["http://user:word@host", "ftp://host", "host:80"])
def test_endpoint_with_credentials_or_without_scheme_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        StorageConfig(endpoint_url=url)


def test_handle_after_a_fork_still_reads(store: Store, place: str) -> None:
    storage: Storage = store.storage()
    storage.put(join(place, "a"), b"x")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, storage.read_bytes(join(place, "a")))
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"x"
