"""Entries: found by exactly what decides their rows, never half, never damaged in silence."""

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import ArtifactWriter
from pipeline.errors import RunError
from pipeline.reuse import Entries, chained_keys
from pipeline.storage import AlreadyExistsError, Storage, StorageConfig
from tests.servers.fixtures import Store, moto_store

__all__ = ["moto_store"]
KIND = "rows/of_a_kind"


@pytest.fixture
def entries(tmp_path: Path) -> Entries:
    return Entries.of(str(tmp_path), KIND, Storage())


def make(entries: Entries, key: str, data: bytes = b"rows") -> Path:
    """An entry of one file; its folder."""
    file = entries.writer(key).put_by_content("part", ".bin", data, rows=2)
    entry = entries.commit(key, [file], {"rows": 2})
    assert entry.read_bytes(file.path) == data
    return Path(entry.root)


def test_entry_is_found_by_its_key_and_lies_where_its_name_says(entries: Entries, tmp_path: Path) -> None:
    key, other = entries.key(1, "config", ["input"]), entries.key(2, "config", ["input"])
    folder = make(entries, key)
    assert folder == tmp_path / entries.name(key)
    found = entries.find(key)
    assert found is not None
    assert found.summary == {"rows": 2}
    assert found.read_bytes(found.files("part-")[0].path) == b"rows"
    assert entries.find(other) is None


def test_key_tells_the_kind_and_every_part_of_the_identity(tmp_path: Path) -> None:
    kinds = [Entries.of(str(tmp_path), kind, Storage()) for kind in ("a", "b")]
    keys = {kind.key(*identity) for kind in kinds for identity in [(1,), (2,), (1, None), ("1",), ([1],)]}
    assert len(keys) == 10


def test_entry_made_twice_is_one_entry(entries: Entries) -> None:
    key = entries.key("x")
    before = {path: path.read_bytes() for path in make(entries, key).iterdir()}
    assert {path: path.read_bytes() for path in make(entries, key).iterdir()} == before


def test_entry_without_its_manifest_is_not_there_and_is_made_again(entries: Entries) -> None:
    """A task that dies between files and manifest leaves nothing that anybody reads."""
    key = entries.key("x")
    entries.writer(key).put_by_content("part", ".bin", b"rows of another version of a library")
    assert entries.find(key) is None
    make(entries, key)
    assert entries.find(key) is not None


def test_entry_one_of_whose_files_is_gone_is_made_again(entries: Entries) -> None:
    key = entries.key("x")
    (part,) = make(entries, key).glob("part-*")
    part.unlink()
    assert entries.find(key) is None
    make(entries, key)
    assert part.read_bytes() == b"rows"


def test_entry_whose_file_is_gone_and_comes_out_otherwise_is_an_error(entries: Entries) -> None:
    key = entries.key("x")
    (part,) = make(entries, key).glob("part-*")
    part.unlink()
    with pytest.raises(RunError, match="made again with other bytes"):
        make(entries, key, b"other rows")


@pytest.mark.parametrize("damage", [b"rowz", b"ro"])
def test_file_with_other_bytes_is_an_error_that_names_it(entries: Entries, damage: bytes) -> None:
    key = entries.key("x")
    (part,) = make(entries, key).glob("part-*")
    part.write_bytes(damage)
    found = entries.find(key)
    if found is not None:  # of the right length: whoever reads it is told
        with pytest.raises(RunError, match="damaged") as raised:
            found.read_bytes(part.name)
    else:
        with pytest.raises(AlreadyExistsError) as raised:
            make(entries, key)
    assert str(part) in str(raised.value)


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_damaged_manifest_is_an_error_that_names_it(entries: Entries, damage: bytes | None) -> None:
    key = entries.key("x")
    path = make(entries, key) / "manifest.json"
    path.write_bytes(damage if damage is not None else path.read_bytes().replace(b'"rows":2', b'"rows":3', 1))
    with pytest.raises(RunError, match="manifest") as raised:
        entries.find(key)
    assert str(path) in str(raised.value)


def test_first_of_two_results_that_differ_stands(entries: Entries) -> None:
    """Floats of two kinds of machine: whoever comes second takes what is there."""
    key = entries.key("x")
    make(entries, key, b"first")
    second = entries.writer(key).put_by_content("part", ".bin", b"second")
    entry = entries.commit(key, [second], {"rows": 2})
    (file,) = entry.files()
    assert entry.read_bytes(file.path) == b"first"


def test_manifest_tells_nothing_of_who_made_it(entries: Entries) -> None:
    body = json.loads((make(entries, entries.key("x")) / "manifest.json").read_text())
    assert (body["artifact"], body["made_by"], body["fingerprint"]) == (f"entries/{KIND}", {}, entries.key("x"))


@settings(deadline=None)
@given(have=st.sets(st.integers(1, 6)), wanted=st.integers(0, 6))
def test_longest_beginning_that_has_an_entry_is_found(
    have: set[int], wanted: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    entries = Entries.of(str(tmp_path_factory.mktemp("store")), KIND, Storage())
    keys = chained_keys(entries.key(), list(range(6)))
    for count in have:
        make(entries, keys[count - 1], bytes([count]))
    found, entry = entries.find_longest(keys[:wanted])
    assert found == max((count for count in have if count <= wanted), default=0)
    assert (entry is None) == (found == 0)


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_chained_keys_are_equal_just_for_equal_beginnings(first: list[int], second: list[int]) -> None:
    keys = [chained_keys("0" * 64, links) for links in (first, second)]
    for count, pair in enumerate(zip(*keys, strict=False), 1):
        assert (pair[0] == pair[1]) == (first[:count] == second[:count])


def test_table_by_content_and_bytes_by_content_have_one_rule(tmp_path: Path) -> None:
    writer = ArtifactWriter(str(tmp_path), Storage())
    table = writer.put_table_by_content("t", pa.table({"n": [1]}))
    assert writer.put_by_content("t", ".parquet", (tmp_path / table.path).read_bytes(), rows=1) == table


def test_entries_in_a_bucket_are_found_made_again_and_first_of_two_stands(
    moto_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_store.make_bucket("kept")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    storage = Storage(StorageConfig(endpoint_url=moto_store.endpoint))
    entries = Entries.of("s3://kept/store", KIND, storage)
    key = entries.key("x")
    assert entries.find(key) is None
    file = entries.writer(key).put_by_content("part", ".bin", b"rows")
    assert entries.find(key) is None, "without a manifest"
    made = entries.commit(key, [file], {"rows": 2})
    other = entries.commit(key, [entries.writer(key).put_by_content("part", ".bin", b"other")], {"rows": 2})
    found = pickle.loads(pickle.dumps(entries)).find(key)  # as a task on another machine has it
    assert found is not None
    assert made.manifest == other.manifest == found.manifest
    assert found.read_bytes(file.path) == b"rows"
    storage.delete(found.uri(file.path))
    assert entries.find(key) is None
    entries.commit(key, [entries.writer(key).put_by_content("part", ".bin", b"rows")], {"rows": 2})
    assert entries.find(key) is not None
