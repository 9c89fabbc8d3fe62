"""Local files and an S3 server (moto) under one set of promises."""

import contextlib
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import parquet_bytes
from pipeline.errors import RunError
from pipeline.storage import (
    AlreadyExistsError,
    BucketConfig,
    ConflictError,
    ScopeError,
    Storage,
    StorageConfig,
    absolute,
    join,
    relative,
)


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    saved = {name: os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")}
    os.environ.update({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"})
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    from s3fs import S3FileSystem

    with contextlib.suppress(FileExistsError):  # servers of one process share what is in them
        S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True).mkdir("pool-bucket")
    yield endpoint
    server.stop()
    for name, value in saved.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, str]:
    """A storage and an empty root in it."""
    if request.param == "local":
        return Storage(), str(tmp_path / "root")
    endpoint = request.getfixturevalue("s3_endpoint")
    return Storage(StorageConfig(endpoint_url=endpoint)), f"s3://pool-bucket/{tmp_path.name}"


def test_bytes_put_and_read_back_are_equal(place: tuple[Storage, str]) -> None:
    storage, root = place
    storage.put(join(root, "a/b.bin"), b"0123456789")
    assert storage.read_bytes(join(root, "a/b.bin")) == b"0123456789"
    assert storage.read_range(join(root, "a/b.bin"), 3, 4) == b"3456"
    assert storage.stat(join(root, "a/b.bin")).bytes == 10


def test_range_beyond_the_end_is_an_error_that_names_the_file(place: tuple[Storage, str]) -> None:
    storage, root = place
    storage.put(join(root, "short"), b"0123")
    with pytest.raises(RunError, match=r"shorter than its index says") as caught:
        storage.read_range(join(root, "short"), 2, 10)
    assert "short" in str(caught.value)
    with pytest.raises(RunError, match="shorter"):
        storage.read_range(join(root, "short"), 100, 1)


def test_absent_object_raises_file_not_found(place: tuple[Storage, str]) -> None:
    storage, root = place
    assert not storage.exists(join(root, "nothing"))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(join(root, "nothing"))
    storage.delete(join(root, "nothing"))
    assert storage.list(join(root, "no-such-folder")) == []


def test_put_once_accepts_same_bytes_and_refuses_others(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "once")
    storage.put_once(uri, b"same")
    storage.put_once(uri, b"same")
    with pytest.raises(AlreadyExistsError, match="other content"):
        storage.put_once(uri, b"different")
    assert storage.read_bytes(uri) == b"same"


def test_put_file_without_overwrite_keeps_what_is_there(place: tuple[Storage, str], tmp_path: Path) -> None:
    storage, root = place
    local = tmp_path / "local.bin"
    local.write_bytes(b"first")
    storage.put_file(join(root, "file"), local, overwrite=False)
    local.write_bytes(b"second")
    with pytest.raises(FileExistsError):
        storage.put_file(join(root, "file"), local, overwrite=False)
    assert storage.read_bytes(join(root, "file")) == b"first"
    local.write_bytes(b"second")
    storage.put_file(join(root, "file"), local)
    assert storage.read_bytes(join(root, "file")) == b"second"


def test_put_file_from_another_disk_is_the_same_file(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other disk here")
    with tempfile.NamedTemporaryFile(dir=memory) as local:
        local.write(b"from memory")
        local.flush()
        Storage().put_file(str(tmp_path / "root" / "file"), Path(local.name))
    assert (tmp_path / "root" / "file").read_bytes() == b"from memory"
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["file"]


def test_ranges_of_an_object_come_in_the_order_asked_for(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "ranges")
    storage.put(uri, bytes(range(100)))
    asked = [(10, 5), (0, 3), (97, 3), (20, 0), (10, 1)]
    assert list(storage.read_ranges(uri, asked)) == [bytes(range(start, start + size)) for start, size in asked]
    found = storage.read_ranges(uri, [(0, 2), (98, 3)])
    assert next(found) == bytes([0, 1])
    with pytest.raises(RunError, match="shorter than its index says"):
        next(found)


def test_compare_and_swap_replaces_only_what_it_expected(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "manifest")
    storage.compare_and_swap(uri, None, b"1")
    with pytest.raises(ConflictError):
        storage.compare_and_swap(uri, None, b"2")
    with pytest.raises(ConflictError):
        storage.compare_and_swap(uri, b"0", b"2")
    storage.compare_and_swap(uri, b"1", b"2")
    assert storage.read_bytes(uri) == b"2"
    with pytest.raises(ConflictError):
        storage.compare_and_swap(join(root, "absent"), b"1", b"2")


def test_list_is_recursive_sorted_and_filtered_by_suffix(place: tuple[Storage, str]) -> None:
    storage, root = place
    for name in ("b/2.tar", "a/1.tar", "a/1.json", "c.tar"):
        storage.put(join(root, "listing", name), b"x")
    storage.put(join(root, "listing-beside", "d.tar"), b"x")
    found = [relative(join(root, "listing"), stat.uri) for stat in storage.list(join(root, "listing"), suffix=".tar")]
    assert found == ["a/1.tar", "b/2.tar", "c.tar"]


def test_version_changes_when_content_does(place: tuple[Storage, str]) -> None:
    storage, root = place
    storage.put(join(root, "v"), b"one")
    before = storage.stat(join(root, "v")).version
    storage.put(join(root, "v"), b"two")
    assert storage.stat(join(root, "v")).version != before


def test_opened_object_reads_and_seeks_like_a_file(place: tuple[Storage, str]) -> None:
    storage, root = place
    data = os.urandom(100_000)
    storage.put(join(root, "big"), data)
    with storage.open(join(root, "big"), buffer_size=4096) as file:
        assert file.read(10) == data[:10]
        file.seek(50_000)
        assert file.read(20_000) == data[50_000:70_000]
        file.seek(-5, os.SEEK_END)
        assert file.read() == data[-5:]
        assert file.read(1) == b""


def test_table_read_back_is_equal_with_and_without_columns(place: tuple[Storage, str]) -> None:
    storage, root = place
    table = pa.table({"uid_hi": pa.array([1, 2], pa.uint64()), "score": pa.array([0.5, -1.0], pa.float32())})
    storage.put(join(root, "t.parquet"), parquet_bytes(table))
    assert storage.read_table(join(root, "t.parquet")).equals(table)
    assert storage.read_table(join(root, "t.parquet"), ["score"]).column_names == ["score"]


def test_storage_after_pickling_still_reads_and_carries_no_secret(place: tuple[Storage, str]) -> None:
    storage, root = place
    storage.put(join(root, "p"), b"x")
    pickled = pickle.dumps(storage)
    assert pickle.loads(pickled).read_bytes(join(root, "p")) == b"x"
    assert b"AWS_SECRET" not in pickled
    assert b"secret" not in pickled.lower()


def test_bucket_with_its_own_endpoint_is_reached_there(s3_endpoint: str, tmp_path: Path) -> None:
    special = {"pool-bucket": BucketConfig(endpoint_url=s3_endpoint)}
    storage = Storage(StorageConfig(endpoint_url="http://127.0.0.1:9", buckets=special, connect_timeout=1.0))
    storage.put(f"s3://pool-bucket/{tmp_path.name}/x", b"x")
    assert storage.read_bytes(f"s3://pool-bucket/{tmp_path.name}/x") == b"x"


def test_limited_handle_refuses_what_was_not_declared(tmp_path: Path) -> None:
    everything = Storage()
    for name in ("in/a", "out/b", "truth.parquet", "input-beside/c"):
        everything.put(str(tmp_path / name), b"x")
    handle = everything.limited([str(tmp_path / "in")], [str(tmp_path / "out")])
    assert handle.read_bytes(str(tmp_path / "in/a")) == b"x"
    assert handle.read_bytes(str(tmp_path / "out/b")) == b"x"
    handle.put(str(tmp_path / "out/new"), b"y")
    for forbidden in ("truth.parquet", "input-beside/c"):
        with pytest.raises(ScopeError, match="did not declare"):
            handle.read_bytes(str(tmp_path / forbidden))
        with pytest.raises(ScopeError):
            handle.open(str(tmp_path / forbidden))
        with pytest.raises(ScopeError):
            handle.stat(str(tmp_path / forbidden))
    with pytest.raises(ScopeError):
        handle.put(str(tmp_path / "in/a"), b"z")
    with pytest.raises(ScopeError):
        handle.delete(str(tmp_path / "in/a"))
    assert everything.read_bytes(str(tmp_path / "in/a")) == b"x"


def test_local_put_leaves_no_temporary_and_lists_no_hidden_file(tmp_path: Path) -> None:
    storage = Storage()
    storage.put(str(tmp_path / "a"), b"x")
    (tmp_path / ".a.unfinished").write_bytes(b"half")
    assert [Path(stat.uri).name for stat in storage.list(str(tmp_path))] == ["a"]
    assert sorted(os.listdir(tmp_path)) == [".a.unfinished", "a"]


def test_local_swaps_by_many_threads_have_one_winner_a_round(tmp_path: Path) -> None:
    storage, uri, wins = Storage(), str(tmp_path / "m"), []

    def contend(name: int) -> None:
        try:
            storage.compare_and_swap(uri, None, str(name).encode())
            wins.append(name)
        except ConflictError:
            pass

    threads = [threading.Thread(target=contend, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert storage.read_bytes(uri) == str(wins[0]).encode()


def test_join_refuses_to_climb_out() -> None:
    with pytest.raises(ValueError, match="climbs out"):
        join("s3://bucket/run", "../other")
    assert join("s3://bucket/run/", "/a/", "b") == "s3://bucket/run/a/b"
    assert absolute("s3://bucket/run/") == "s3://bucket/run"
    assert absolute("x").startswith("/")
    with pytest.raises(ValueError, match="not below"):
        relative("/a/b", "/a/bc")


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=2000), offset=st.integers(0, 2500), length=st.integers(1, 500))
def test_any_range_is_exact_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, length: int
) -> None:
    uri = str(tmp_path_factory.mktemp("range") / "f")
    storage = Storage()
    storage.put(uri, data)
    if offset + length <= len(data):
        assert storage.read_range(uri, offset, length) == data[offset : offset + length]
    else:
        with pytest.raises(RunError):
            storage.read_range(uri, offset, length)
