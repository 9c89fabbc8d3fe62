import json

import pytest

from pipeline.artifact import sha256_file
from pipeline.errors import UserError
from stages.pool.demo.rates import IllRates
from tests.stages.pool.demo.conftest import make_small


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_seed_gives_the_same_pool_byte_for_byte(demo, tmp_path):
    assert _files(make_small(tmp_path / "again").directory) == _files(demo.directory)


def test_other_seed_gives_another_pool(demo, tmp_path):
    other = make_small(tmp_path / "other", seed=4, num_samples=128)
    assert not {path.name for path in other.metadata.iterdir()} & {path.name for path in demo.metadata.iterdir()}


def test_pool_is_complete_and_nothing_is_left_beside_it(demo):
    assert sorted(path.name for path in demo.directory.iterdir()) == [
        "demo.json", "eval", "metadata", "shards", "trusted.npy", "truth.parquet",
    ]  # fmt: skip
    assert [path.name for path in demo.directory.parent.iterdir()] == [demo.directory.name]
    assert demo.created


def test_record_lists_each_file_with_its_digest(demo):
    record = json.loads((demo.directory / "demo.json").read_bytes())
    on_disk = _files(demo.directory).keys() - {"demo.json"}
    assert record["files"].keys() == on_disk
    for path in ("truth.parquet", "trusted.npy"):
        assert record["files"][path]["sha256"] == sha256_file(demo.directory / path)


def test_made_again_it_says_so_and_touches_nothing(demo, capsys):
    before = {path: path.stat().st_mtime_ns for path in demo.directory.rglob("*")}
    again = make_small(demo.directory)
    assert not again.created
    assert {path: path.stat().st_mtime_ns for path in demo.directory.rglob("*")} == before
    assert "there already" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"seed": 9}, {"num_samples": 300}, {"rates": IllRates(mismatched=0.1)}])
def test_another_pool_in_the_folder_is_refused(demo, changes):
    with pytest.raises(UserError, match="another demo pool"):
        make_small(demo.directory, **changes)


def test_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="no demo pool"):
        make_small(tmp_path)
    assert _files(tmp_path) == {"mine.txt": b"keep"}


def test_damaged_pool_is_refused(tmp_path):
    pool = make_small(tmp_path / "pool", num_samples=128)
    pool.trusted.write_bytes(b"")
    with pytest.raises(UserError, match="was changed"):
        make_small(tmp_path / "pool", num_samples=128)


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "pool").mkdir()
    assert make_small(tmp_path / "pool", num_samples=128).truth.is_file()


def test_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.pool.demo.make.write_evaluation", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_small(tmp_path / "pool", num_samples=128)
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_pool_is_refused(tmp_path):
    with pytest.raises(UserError, match="too small"):
        make_small(tmp_path / "pool", num_samples=64)


def test_folder_in_an_object_store_is_refused():
    with pytest.raises(UserError, match="local disk"):
        make_small("s3://bucket/pool")
