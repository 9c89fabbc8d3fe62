"""The record of a run: how it ended, where its parts lie, and that a copied run still finds them."""

import io
import json
import shutil

import pytest
from rich.console import Console

from pipeline.artifact import ArtifactWriter, Counts
from pipeline.errors import RunError, UserError
from pipeline.progress import Reporter
from pipeline.run_record import (
    RunRecord,
    failure_to_write_told,
    open_artifacts,
    read_record,
    resolve,
    versions,
)
from pipeline.stage import StageResult
from pipeline.storage import Storage
from tests.artifacts import commit


def _artifact(root, name="pool"):
    entry = ArtifactWriter(str(root), Storage()).put_bytes("a.bin", b"abc", rows=3)
    return commit(root, name, StageResult((entry,), {"rows": 3}, Counts(5, 3, {"odd": 2})))


def _record(output, *names):
    return RunRecord(str(output), Storage(), {"seed": 0}, list(names))


def test_record_of_an_interrupted_run_keeps_what_was_done(tmp_path):
    record = _record(tmp_path, "pool", "train", "subset")
    pool = _artifact(tmp_path / "store" / "pool" / "abc")
    record.stage("pool", "done", pool, f"{pool.root}/manifest.json")
    record.stage("train", "running")
    record.finish("interrupted", "KeyboardInterrupt()")
    body = read_record(str(tmp_path), Storage())
    assert (body["state"], body["error"]) == ("interrupted", "KeyboardInterrupt()")
    assert body["finished"] >= body["started"]
    assert {name: stage["state"] for name, stage in body["stages"].items()} == {
        "pool": "done",
        "train": "running",
        "subset": "waiting",
    }
    assert body["stages"]["pool"]["rows"] == 3
    assert body["stages"]["pool"]["counts"]["dropped"] == {"odd": 2}
    assert list(open_artifacts(str(tmp_path), Storage())) == ["pool"]


def test_record_of_a_killed_run_still_says_running(tmp_path):
    _record(tmp_path, "pool").stage("pool", "running")  # and nothing more is written
    body = read_record(str(tmp_path), Storage())
    assert (body["state"], body["finished"]) == ("running", None)
    assert open_artifacts(str(tmp_path), Storage()) == {}


def test_record_of_a_copied_run_finds_its_own_parts(tmp_path):
    record = _record(tmp_path / "a", "pool")
    pool = _artifact(tmp_path / "a" / "store" / "pool")
    record.stage("pool", "done", pool, f"{pool.root}/manifest.json")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    found = open_artifacts(str(tmp_path / "b"), Storage())["pool"]
    assert found.root == str(tmp_path / "b" / "store" / "pool")
    assert found.read_bytes("a.bin") == b"abc"


def test_record_names_parts_of_a_shared_store_in_full(tmp_path):
    record = _record(tmp_path / "run", "pool")
    pool = _artifact(tmp_path / "run-store" / "pool")  # a sibling whose name begins alike lies not below it
    record.stage("pool", "reused", pool, f"{pool.root}/manifest.json")
    assert read_record(str(tmp_path / "run"), Storage())["stages"]["pool"]["root"] == pool.root
    assert open_artifacts(str(tmp_path / "run"), Storage())["pool"].read_bytes("a.bin") == b"abc"


@pytest.mark.parametrize(
    ("said", "meant"),
    [("store/pool", "s3://b/run/store/pool"), ("/abs/pool", "/abs/pool"), ("s3://c/pool", "s3://c/pool")],
)
def test_resolve_takes_relative_places_below_the_output(said, meant):
    assert resolve("s3://b/run", said) == meant


def test_record_is_absent_until_something_happens_and_the_message_helps(tmp_path):
    _record(tmp_path, "pool")
    with pytest.raises(UserError, match="no run here") as error:
        read_record(str(tmp_path), Storage())
    assert "run.json" in str(error.value)
    assert "gradsieve run" in str(error.value)


def test_record_that_is_cut_is_damaged_and_no_traceback(tmp_path):
    _record(tmp_path, "pool").finish("done")
    whole = (tmp_path / "run.json").read_bytes()
    (tmp_path / "run.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="damaged"):
        read_record(str(tmp_path), Storage())


def test_record_digest_follows_the_configuration_alone(tmp_path):
    one, same = (RunRecord(str(tmp_path / n), Storage(), {"a": 1, "b": 2}, [n]) for n in ("x", "y"))
    turned = RunRecord(str(tmp_path), Storage(), {"b": 2, "a": 1}, [])
    other = RunRecord(str(tmp_path), Storage(), {"a": 1, "b": 3}, [])
    assert one.body["config_digest"] == same.body["config_digest"] == turned.body["config_digest"]
    assert one.body["config_digest"] != other.body["config_digest"]


def test_versions_are_those_that_the_packages_give_themselves():
    import numpy
    import polars

    assert versions()["numpy"] == numpy.__version__
    assert versions()["polars"] == polars.__version__


def test_record_keeps_words_of_any_script(tmp_path):
    _record(tmp_path, "pool").finish("failed", "Bild „größer“ 画像")
    assert json.loads((tmp_path / "run.json").read_text())["error"] == "Bild „größer“ 画像"


@pytest.mark.parametrize("text", ["{}", "[]", "1", '{"digest": 1}', '{"stages": {}, "digest": "0"}'])
def test_record_of_another_kind_is_damaged(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match="record is damaged") as error:
        read_record(str(tmp_path), Storage())
    assert str(tmp_path / "run.json") in str(error.value)


def test_record_that_was_changed_is_damaged_however_it_was_formatted(tmp_path):
    record = _record(tmp_path, "pool")
    record.stage("pool", "running")
    record.finish("failed", "Bild 1.5")
    body = json.loads((tmp_path / "run.json").read_bytes())
    (tmp_path / "run.json").write_text(json.dumps(body))
    assert read_record(str(tmp_path), Storage())["error"] == "Bild 1.5"
    for key, value in (("error", "Bild 1.6"), ("config", {"seed": 1}), ("started", ""), ("more", 1)):
        (tmp_path / "run.json").write_text(json.dumps({**body, key: value}))
        with pytest.raises(RunError, match="record is damaged"):
            read_record(str(tmp_path), Storage())


def test_record_that_cannot_be_written_is_a_warning(tmp_path):
    record = _record(tmp_path, "pool")
    (tmp_path / "run.json").mkdir()  # no file can take its place
    told = io.StringIO()
    with failure_to_write_told(Reporter(Console(file=told, width=200))):
        record.finish("failed", "the stage failed")
    assert "run.json could not be written" in told.getvalue()
