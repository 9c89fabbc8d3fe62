"""Which runs of a series stay, what goes with the others, and that nothing goes that a kept run refers to."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline import gc
from pipeline.cli.app import app
from pipeline.curation import dated_name
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.errors import LockedError, RunError, UserError
from pipeline.gc import Verdict, collect, judge
from pipeline.graph import Graph, Node, Place
from pipeline.lease import held
from pipeline.progress import Reporter
from pipeline.run_record import RunRecord, open_artifacts, sealed
from pipeline.runner import Runner
from pipeline.storage import Storage
from tests.pipeline.toy_stages import EvenConfig, NumbersConfig, SquaresConfig

STORAGE, REPORTER = Storage(), Reporter()


def _run(series: Path, name: str, *, count: int, divisor: int = 2, fail: bool = False, state: str = "done") -> Path:
    """A run of the toy stages in a series: numbers in the shared store, even ones delivered."""
    output = series / name
    nodes: tuple[Node, ...] = (
        Node("numbers", "numbers", "tests.pipeline.toy_stages:Numbers", NumbersConfig(count=count)),
        Node("half", "half", "tests.pipeline.toy_stages:Even", EvenConfig(divisor=divisor), {"numbers": "numbers"}),
        Node(
            "even", "even", "tests.pipeline.toy_stages:Even", EvenConfig(fail=fail), {"numbers": "numbers"},
            deliverable=True,
        ),
        Node("squares", "squares", "tests.pipeline.toy_stages:Squares", SquaresConfig(), {"numbers": "numbers"}),
    )  # fmt: skip
    graph = Graph(nodes, Place(str(output), str(series / "store"), STORAGE), seed=0)
    record = RunRecord(str(output), STORAGE, {}, [node.name for node in nodes])
    record.body["started"] = name  # as sortable as the time
    engine = Engine(ClusterConfig(executor="in_process"), REPORTER)
    try:
        Runner(graph, engine, REPORTER).run(record)
    except RunError:
        state = "failed"
    record.finish(state)
    return output


def _delete(series: Path, keep: int) -> Verdict:
    return collect(str(series), STORAGE, REPORTER, keep=keep, agree=lambda _: True)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


def _is_whole(output: Path) -> bool:
    artifacts = open_artifacts(str(output), STORAGE)
    return all(artifact.read_bytes(f.path) is not None for artifact in artifacts.values() for f in artifact.files())


def test_last_finished_runs_stay_whole_and_the_others_go_with_what_they_alone_refer_to(tmp_path: Path) -> None:
    old = _run(tmp_path, "1", count=5)
    shared = _run(tmp_path, "2", count=6)
    new = _run(tmp_path, "3", count=6, divisor=3)
    verdict = _delete(tmp_path, keep=2)
    assert [Path(run.output).name for run in verdict.kept] == ["3", "2"]
    assert not old.exists()
    assert _is_whole(shared)
    assert _is_whole(new)
    assert len(list((tmp_path / "store/numbers").iterdir())) == 1
    assert len(list((tmp_path / "store/half").iterdir())) == 2


def test_nothing_is_deleted_without_consent(tmp_path: Path) -> None:
    for name, count in (("1", 5), ("2", 6)):
        _run(tmp_path, name, count=count)
    before = _files(tmp_path)
    verdict = collect(str(tmp_path), STORAGE, REPORTER, keep=1, agree=lambda _: False)
    assert _files(tmp_path) == before
    assert {Path(doomed.root).name for doomed in verdict.runs} == {"1"}
    assert sum(doomed.num_bytes for doomed in verdict.doomed) > 0


def test_unfinished_run_stays_if_it_was_begun_after_the_newest_finished_one(tmp_path: Path) -> None:
    stale = _run(tmp_path, "1", count=4, fail=True)
    finished = _run(tmp_path, "2", count=5)
    hopeful = _run(tmp_path, "3", count=6, fail=True)
    verdict = _delete(tmp_path, keep=1)
    assert {Path(run.output).name for run in verdict.kept} == {"2", "3"}
    assert not stale.exists()
    assert finished.exists()
    assert len(list((tmp_path / "store/numbers").iterdir())) == 2  # those of runs 2 and 3
    resumed = _run(tmp_path, hopeful.name, count=6)
    assert _is_whole(resumed)


def test_folder_in_which_an_unfinished_run_is_at_work_stays_though_nothing_is_finished_there(tmp_path: Path) -> None:
    _run(tmp_path, "1", count=5)
    output = tmp_path / "2"
    under_way = tmp_path / "store/training/mimic/0123456789abcdef"
    (under_way / "checkpoints").mkdir(parents=True)
    (under_way / "checkpoints/weights").write_bytes(b"hours of work")
    record = RunRecord(str(output), STORAGE, {}, ["training/mimic"])
    record.body["started"] = "2"
    record.begin("training/mimic", str(under_way))
    _delete(tmp_path, keep=1)
    assert (under_way / "checkpoints/weights").read_bytes() == b"hours of work"


def _squares(series: Path) -> set[str]:
    """Numbers whose squares lie in entries of the store."""
    return {path.read_text() for path in series.glob("store/entries/squares/*/value-*")}


def test_entries_that_a_kept_run_used_stay_and_the_others_go(tmp_path: Path) -> None:
    _run(tmp_path, "1", count=5)
    _run(tmp_path, "2", count=3)
    assert _squares(tmp_path) == {"0", "1", "4", "9", "16"}
    _delete(tmp_path, keep=2)
    assert _squares(tmp_path) == {"0", "1", "4", "9", "16"}
    _delete(tmp_path, keep=1)
    assert _squares(tmp_path) == {"0", "1", "4"}
    assert len(list((tmp_path / "store/entries/squares").iterdir())) == 3


def test_entries_are_told_by_kind_and_number(tmp_path: Path) -> None:
    _run(tmp_path, "1", count=5)
    _run(tmp_path, "2", count=3)
    shown = CliRunner().invoke(app, ["gc", str(tmp_path), "--keep", "1"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "entries/squares: 2 entries" in "".join(shown.output.split("\n"))
    assert shown.output.count("entries/squares") == 1


def test_all_entries_stay_while_a_kept_run_has_a_stage_under_way(tmp_path: Path) -> None:
    """Which of them it will use nobody can tell."""
    _run(tmp_path, "1", count=5)
    _run(tmp_path, "2", count=3)
    _run(tmp_path, "3", count=4, fail=True)
    verdict = _delete(tmp_path, keep=1)
    assert {Path(run.output).name for run in verdict.kept} == {"2", "3"}
    assert _squares(tmp_path) == {"0", "1", "4", "9", "16"}


@pytest.mark.parametrize("manifest", ["store/squares/*/manifest.json", "2/manifests/even.json"])
def test_manifest_of_a_kept_run_that_is_gone_or_damaged_costs_no_entry(tmp_path: Path, manifest: str) -> None:
    _run(tmp_path, "1", count=5)
    _run(tmp_path, "2", count=3)
    for path in tmp_path.glob(manifest):
        path.write_bytes(path.read_bytes().replace(b"squares", b"cubes", 1).replace(b"even", b"odd", 1))
    before = _files(tmp_path)
    with pytest.raises(RunError, match="changed after it was written"):
        _delete(tmp_path, keep=1)
    assert _files(tmp_path) == before
    for path in tmp_path.glob(manifest):
        path.unlink()
    _delete(tmp_path, keep=1)
    assert _squares(tmp_path) == {"0", "1", "4", "9", "16"}


def test_store_elsewhere_and_files_that_are_no_artifacts_are_left_alone(tmp_path: Path) -> None:
    series = tmp_path / "series"
    _run(series, "1", count=5)
    _run(series, "2", count=6)
    elsewhere = tmp_path / "shared/numbers/0123456789abcdef/n.parquet"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(b"x")
    (series / "notes.txt").write_text("mine")
    (series / "store/README").write_text("mine")
    _delete(series, keep=1)
    assert elsewhere.exists()
    assert (series / "notes.txt").read_text() == "mine"
    assert (series / "store/README").read_text() == "mine"


def test_series_with_a_run_at_work_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    for name in "12":
        _run(tmp_path, name, count=int(name) + 4)
    before = _files(tmp_path)
    for place in (tmp_path, tmp_path / "1", tmp_path / "2"):
        with held(str(place), STORAGE, REPORTER), pytest.raises(LockedError):
            _delete(tmp_path, keep=1)
        assert _files(tmp_path) == before


def test_damaged_record_stops_it_before_the_first_deletion(tmp_path: Path) -> None:
    for name in "123":
        _run(tmp_path, name, count=int(name) + 4)
    path = tmp_path / "3/run.json"
    path.write_bytes(path.read_bytes().replace(b'"done"', b'"gone"', 1))
    before = _files(tmp_path)
    with pytest.raises(RunError, match="record is damaged"):
        _delete(tmp_path, keep=1)
    assert _files(tmp_path) == before


def test_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs here"):
        judge(str(tmp_path), STORAGE, keep=1)


def test_deletion_that_is_broken_off_leaves_nothing_that_is_taken_for_whole_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(tmp_path, "1", count=5)
    kept = _run(tmp_path, "2", count=6)
    deleted: list[str] = []

    def fails_at_the_third(storage: Storage, uri: str) -> None:
        if len(deleted) == 3:
            raise OSError("gone away")
        deleted.append(uri)
        Path(uri).unlink()

    monkeypatch.setattr(gc.Storage, "delete", fails_at_the_third)
    with pytest.raises(OSError, match="gone away"):
        _delete(tmp_path, keep=1)
    monkeypatch.undo()
    assert deleted[0].endswith("manifest.json")
    assert (tmp_path / "1/run.json").exists()  # so that it is found again
    _delete(tmp_path, keep=1)
    assert not (tmp_path / "1").exists()
    assert _is_whole(kept)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(st.tuples(st.sampled_from(["done", "failed", "running"]), st.sets(st.integers(0, 5))), min_size=1),
    keep=st.integers(1, 4),
)
def test_what_a_kept_run_refers_to_never_goes(
    runs: list[tuple[str, set[int]]], keep: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Oracle: the rule written down again, run by run."""
    series = tmp_path_factory.mktemp("series")
    for number in range(6):
        folder = series / f"store/a/{number:016x}"
        folder.mkdir(parents=True)
        (folder / "part").write_text("x")
    for index, (state, referred) in enumerate(runs):
        stages = {f"s{number}": {"state": state, "root": f"{series}/store/a/{number:016x}"} for number in referred}
        body = {"state": state, "started": f"{index:03d}", "config": {}, "stages": stages}
        (series / f"{index:03d}").mkdir()
        (series / f"{index:03d}/run.json").write_bytes(sealed(body))
    done = [index for index, (state, _) in enumerate(runs) if state == "done"]
    wanted = set(done[-keep:]) | {
        index for index, (state, _) in enumerate(runs) if state != "done" and index > (done[-1] if done else -1)
    }
    _delete(series, keep=keep)
    left = {int(path.name) for path in series.iterdir() if path.name != "store" and path.is_dir()}
    assert left == wanted
    referred = {number for index in wanted for number in runs[index][1]}
    assert {int(path.name, 16) for path in (series / "store/a").glob("*")} == referred


def test_names_of_dated_runs_sort_by_time_and_differ_by_milliseconds() -> None:
    begun = datetime(2026, 1, 2, 3, 4, 5, 6_000, UTC)
    assert dated_name(begun) == "20260102T030405.006Z"
    names = [dated_name(begun + timedelta(milliseconds=number * 997)) for number in range(2000)]
    assert names == sorted(set(names))


def test_root_of_a_stage_at_work_is_on_record(tmp_path: Path) -> None:
    record = RunRecord(str(tmp_path), STORAGE, {}, ["pool"])
    record.begin("pool", str(tmp_path / "store/pool/abc"))
    entry = json.loads((tmp_path / "run.json").read_text())["stages"]["pool"]
    assert (entry["state"], entry["root"]) == ("running", "store/pool/abc")
