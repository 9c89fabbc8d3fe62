"""The graph and its runner: what runs, what is reused, what is refused, what is left behind."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifact import Artifact, Manifest
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.errors import RunError, UserError
from pipeline.graph import Adopted, Graph, Node, Place, is_replacing, list_external, upto
from pipeline.meter import Budget, LimitReachedError, Meter, Usage
from pipeline.progress import Reporter
from pipeline.run_record import RunRecord, open_artifacts, read_record
from pipeline.runner import Runner, check_end_to_end
from pipeline.stage import External
from pipeline.storage import ScopeError, Storage
from pipeline.verify import verify
from tests.counted_store import counted
from tests.pipeline import toy_stages
from tests.pipeline.toy_stages import EvenConfig, NumbersConfig, SquaresConfig

NUMBERS = Node("numbers", "numbers", "tests.pipeline.toy_stages:Numbers", NumbersConfig())
EVEN = Node("even", "even", "tests.pipeline.toy_stages:Even", EvenConfig(), {"numbers": "numbers"}, deliverable=True)
SQUARES = Node("squares", "squares", "tests.pipeline.toy_stages:Squares", SquaresConfig(), {"numbers": "numbers"})


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    toy_stages.CALLS.clear()


def _graph(root: Path, *nodes: Node, seed: int = 0) -> Graph:
    return Graph(nodes or (NUMBERS, EVEN), Place(str(root / "out"), str(root / "out/store"), Storage()), seed)


def _run(root: Path, *nodes: Node, seed: int = 0, meter: Meter | None = None) -> dict[str, Artifact]:
    graph = _graph(root, *nodes, seed=seed)
    reporter = Reporter()
    runner = Runner(graph, Engine(ClusterConfig(executor="in_process"), reporter, meter=meter), reporter)
    runner.preflight(graph.done())
    record = RunRecord(graph.place.output, Storage(), {}, [node.name for node in graph.nodes])
    return runner.run(record)


def test_run_makes_artifacts_and_a_second_run_makes_nothing(tmp_path: Path) -> None:
    first = _run(tmp_path)
    assert toy_stages.CALLS == ["numbers", "even"]
    assert sorted(path.name for path in (tmp_path / "out/even").iterdir()) == [f"{n}.txt" for n in (0, 2, 4, 6, 8)]
    second = _run(tmp_path)
    assert toy_stages.CALLS == ["numbers", "even"]
    assert {name: a.manifest for name, a in second.items()} == {name: a.manifest for name, a in first.items()}
    assert set(_graph(tmp_path).done()) == {"numbers", "even"}


def test_config_change_runs_only_what_depends_on_it(tmp_path: Path) -> None:
    _run(tmp_path)
    _run(tmp_path, NUMBERS, replace(EVEN, config=EvenConfig(divisor=5)))
    assert toy_stages.CALLS == ["numbers", "even", "even"]
    _run(tmp_path, replace(NUMBERS, config=NumbersConfig(count=11)), replace(EVEN, config=EvenConfig(divisor=5)))
    assert toy_stages.CALLS == ["numbers", "even", "even", "numbers", "even"]


def test_placement_field_changes_no_fingerprint(tmp_path: Path) -> None:
    _run(tmp_path)
    _run(tmp_path, replace(NUMBERS, config=NumbersConfig(width=64)), EVEN)
    assert toy_stages.CALLS == ["numbers", "even"]


def test_seed_is_identity_of_seeded_nodes_only(tmp_path: Path) -> None:
    _run(tmp_path, NUMBERS, replace(EVEN, seeded=True))
    _run(tmp_path, NUMBERS, replace(EVEN, seeded=True), seed=1)
    assert toy_stages.CALLS == ["numbers", "even", "even"]


def test_stage_rerun_with_equal_content_stops_the_rerun_there(tmp_path: Path) -> None:
    """Content digests, not fingerprints, feed the next stage."""
    source = tmp_path / "source.txt"
    source.write_text("a")
    nodes = (replace(NUMBERS, config=NumbersConfig(source=str(source))), EVEN)
    _run(tmp_path, *nodes)
    source.write_text("bb")
    _run(tmp_path, *nodes)
    assert toy_stages.CALLS == ["numbers", "even", "numbers"]


def test_deliverable_replaced_by_a_smaller_one_leaves_no_stale_file(tmp_path: Path) -> None:
    _run(tmp_path)
    bystander = tmp_path / "out/even/mine.txt"
    bystander.write_text("not listed, not touched")
    _run(tmp_path, NUMBERS, replace(EVEN, config=EvenConfig(divisor=5)))
    assert sorted(path.name for path in (tmp_path / "out/even").iterdir()) == ["0.txt", "5.txt", "mine.txt"]


def test_half_replaced_deliverable_is_never_taken_for_whole(tmp_path: Path) -> None:
    _run(tmp_path)
    with pytest.raises(RunError, match="a task failed"):
        _run(tmp_path, NUMBERS, replace(EVEN, config=EvenConfig(divisor=5, fail=True)))
    manifest = (tmp_path / "out/manifests/even.json").read_bytes()
    assert is_replacing(manifest)
    _run(tmp_path)
    assert toy_stages.CALLS == ["numbers", "even", "even", "even"]
    assert sorted(path.name for path in (tmp_path / "out/even").iterdir()) == [f"{n}.txt" for n in (0, 2, 4, 6, 8)]
    assert not is_replacing((tmp_path / "out/manifests/even.json").read_bytes())


def test_stage_that_loses_a_row_fails_the_run_and_commits_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="unaccounted"):
        _run(tmp_path, NUMBERS, replace(EVEN, config=EvenConfig(lose=1)))
    assert set(_graph(tmp_path, NUMBERS, replace(EVEN, config=EvenConfig(lose=1))).done()) == {"numbers"}


def test_failure_is_told_even_where_the_record_of_it_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage fails, and by then the record cannot be replaced any more."""
    with pytest.raises(RunError, match="a task failed"):
        _run(tmp_path, NUMBERS, replace(EVEN, config=EvenConfig(fail=True, spoil=str(tmp_path / "out/run.json"))))
    assert "run.json could not be written" in capsys.readouterr().err


def test_stage_that_reads_what_it_did_not_declare_is_stopped(tmp_path: Path) -> None:
    truth = tmp_path / "truth.parquet"
    truth.write_bytes(b"secret")
    with pytest.raises(ScopeError, match="did not declare"):
        _run(tmp_path, NUMBERS, replace(EVEN, config=EvenConfig(peek=str(truth))))


def test_stage_over_grown_input_does_only_the_tasks_of_what_is_new(tmp_path: Path) -> None:
    _run(tmp_path, replace(NUMBERS, config=NumbersConfig(count=3)), SQUARES)
    grown = _run(tmp_path, replace(NUMBERS, config=NumbersConfig(count=5)), SQUARES)["squares"]
    assert [call for call in toy_stages.CALLS if call.startswith("square ")] == [f"square {n}" for n in range(5)]
    scratch = _run(tmp_path / "scratch", replace(NUMBERS, config=NumbersConfig(count=5)), SQUARES)["squares"]
    assert grown.manifest.content == scratch.manifest.content
    assert len(grown.manifest.entries) == 5
    for name in grown.manifest.entries:
        assert (tmp_path / "out/store" / name / "manifest.json").exists()


def _adopting(earlier: Artifact) -> Node:
    adopted = Adopted("/runs/earlier", "numbers", earlier.manifest.fingerprint)
    return replace(NUMBERS, name="before", config=NumbersConfig(count=3), adopted=adopted)


def test_artifact_of_an_earlier_run_is_taken_as_it_is_and_its_run_is_on_record(tmp_path: Path) -> None:
    earlier = _run(tmp_path, NUMBERS)["numbers"]
    found = _run(tmp_path, _adopting(earlier), replace(EVEN, inputs={"numbers": "before"}))
    assert toy_stages.CALLS == ["numbers", "even"]
    assert (found["before"].root, found["even"].summary["kept"]) == (earlier.root, 5)
    entry = read_record(str(tmp_path / "out"), Storage())["stages"]["before"]
    assert (entry["state"], entry["from"], entry["artifact"]) == ("reused", "/runs/earlier", "numbers")
    assert verify(str(tmp_path / "out"), Storage(), Reporter()).differences == []


def test_artifact_of_an_earlier_run_that_is_gone_is_an_error_that_names_the_run(tmp_path: Path) -> None:
    earlier = _run(tmp_path, NUMBERS)["numbers"]
    (Path(earlier.root) / "manifest.json").unlink()
    with pytest.raises(RunError, match="not there any longer") as raised:
        _run(tmp_path, _adopting(earlier))
    assert "numbers of /runs/earlier" in str(raised.value)


def test_stage_cannot_read_entries_of_a_kind_that_it_does_not_keep(tmp_path: Path) -> None:
    other = tmp_path / "out/store/entries/cubes/0123456789abcdef/manifest.json"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"{}")
    with pytest.raises(ScopeError, match="did not declare"):
        _run(tmp_path, NUMBERS, replace(SQUARES, config=SquaresConfig(peek=str(other))))


def test_preflight_of_a_late_stage_stops_before_the_first_one_runs(tmp_path: Path) -> None:
    late = replace(NUMBERS, name="late", config=NumbersConfig(refuse=True))
    with pytest.raises(UserError, match="refused before work"):
        _run(tmp_path, NUMBERS, EVEN, late)
    assert toy_stages.CALLS == []


def test_missing_external_input_is_named_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _run(tmp_path, replace(NUMBERS, config=NumbersConfig(source=str(tmp_path / "nothing"))))
    assert str(tmp_path / "nothing") in str(caught.value)
    assert "make it" in str(caught.value)


def test_neighbours_that_do_not_fit_are_refused_when_the_graph_is_built(tmp_path: Path) -> None:
    wants = Node("text", "text", "tests.pipeline.toy_stages:WantsText", EvenConfig(), {"numbers": "numbers"})
    with pytest.raises(UserError, match="does not give") as caught:
        _graph(tmp_path, NUMBERS, wants)
    assert "text: string" in str(caught.value)


def test_until_keeps_a_stage_and_what_it_needs() -> None:
    other = replace(NUMBERS, name="other", label="other")
    assert [node.name for node in upto([NUMBERS, other, EVEN], "even")] == ["numbers", "even"]
    assert [node.name for node in upto([NUMBERS, other, EVEN], "numbers")] == ["numbers"]
    with pytest.raises(UserError, match="no such stage") as caught:
        upto([NUMBERS, EVEN], "odd")
    assert "numbers, even" in str(caught.value)


def test_external_folder_lists_only_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    (tmp_path / "a.json").write_bytes(b"x")
    assert len(list_external(External(str(tmp_path), suffix=".tar"), Storage()).files) == 1
    with pytest.raises(UserError, match="not there"):
        list_external(External(str(tmp_path), suffix=".parquet"), Storage())


def test_external_input_of_several_stages_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("a")
    config = NumbersConfig(source=str(tmp_path / "in"))
    nodes = [replace(NUMBERS, name=name, label=name, config=config) for name in ("one", "two", "three")]
    graph = _graph(tmp_path, *nodes)
    with counted(monkeypatch) as store:
        for node in nodes:
            graph.external(node)
            graph.external(node)
    assert store.traffic.puts == 1


def test_damaged_manifest_is_an_error_not_a_rerun(tmp_path: Path) -> None:
    _run(tmp_path)
    manifest = tmp_path / "out/manifests/even.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows":1', b'"rows":2', 1))
    with pytest.raises(RunError, match="changed after it was written"):
        _graph(tmp_path).done()


def test_artifact_finished_by_another_run_meanwhile_is_adopted(tmp_path: Path) -> None:
    graph = _graph(tmp_path, NUMBERS)
    first = _run(tmp_path, NUMBERS)["numbers"]
    reporter = Reporter()
    runner = Runner(graph, Engine(ClusterConfig(executor="in_process"), reporter), reporter)
    again = runner._run_node(NUMBERS, {}, {}, first.manifest.fingerprint)
    assert again.manifest == first.manifest


def test_limit_stops_between_stages_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    used = Usage(hours=1.0, attempts=2)
    with pytest.raises(LimitReachedError, match="reached its limit") as caught:
        _run(tmp_path, meter=Meter(Budget(hours=1.0), used))
    assert "limits.hours" in str(caught.value)
    assert "3 attempt(s)" in str(caught.value)
    assert toy_stages.CALLS == []
    assert set(_run(tmp_path, meter=Meter(Budget(hours=2.0), used))) == {"numbers", "even"}


def test_limit_that_is_reached_by_finished_work_reuses_it_all_the_same(tmp_path: Path) -> None:
    _run(tmp_path)
    assert set(_run(tmp_path, meter=Meter(Budget(hours=1.0), Usage(hours=5.0)))) == {"numbers", "even"}


def test_record_tells_states_and_opens_artifacts_of_a_moved_run(tmp_path: Path) -> None:
    _run(tmp_path)
    (tmp_path / "out").rename(tmp_path / "moved")
    record = read_record(str(tmp_path / "moved"), Storage())
    assert {name: entry["state"] for name, entry in record["stages"].items()} == {"numbers": "done", "even": "done"}
    artifacts = open_artifacts(str(tmp_path / "moved"), Storage())
    assert artifacts["numbers"].read_table("n.parquet").num_rows == 10
    assert artifacts["even"].read_bytes("4.txt") == b"4"
    with pytest.raises(UserError, match="no run here"):
        read_record(str(tmp_path / "out"), Storage())


def test_failed_stage_is_recorded_as_failed(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        _run(tmp_path, NUMBERS, replace(EVEN, config=EvenConfig(fail=True)))
    stages = read_record(str(tmp_path / "out"), Storage())["stages"]
    assert (stages["numbers"]["state"], stages["even"]["state"]) == ("done", "failed")


def test_end_to_end_check_finds_a_lost_sample() -> None:
    def made(name: str, summary: dict[str, object]) -> Artifact:
        return Artifact("", Manifest(name, "", {}, (), summary), Storage())

    pool = made("pool", {"samples": 10, "quarantined": 2})
    subset = made("subset", {"kept": 3, "dropped": {"rule": 5}})
    check_end_to_end({"pool": pool, "subset": subset, "shards": made("shards", {"samples": 3})})
    with pytest.raises(RunError, match="end to end"):
        check_end_to_end({"pool": pool, "subset": made("subset", {"kept": 3, "dropped": {"rule": 4}})})
    with pytest.raises(RunError, match="shards do not hold"):
        check_end_to_end({"pool": pool, "subset": subset, "shards": made("shards", {"samples": 2})})


@pytest.mark.parametrize("name", ["out/even/4.txt", "out/store/numbers/*/n.parquet"])
def test_file_that_is_gone_is_made_again_and_said(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _run(tmp_path)
    (gone,) = tmp_path.glob(name)
    content = gone.read_bytes()
    gone.unlink()
    second = _run(tmp_path)
    assert gone.read_bytes() == content
    assert {n: a.manifest.content for n, a in second.items()} == {n: a.manifest.content for n, a in first.items()}
    assert f"{gone} is gone; it is made again" in capsys.readouterr().err


def test_deliverable_cut_short_is_made_again(tmp_path: Path) -> None:
    _run(tmp_path)
    path = tmp_path / "out/even/4.txt"
    path.write_bytes(b"")
    _run(tmp_path)
    assert path.read_bytes() == b"4"


def test_damaged_part_of_the_store_is_an_error_that_names_it(tmp_path: Path) -> None:
    _run(tmp_path)
    (path,) = tmp_path.glob("out/store/numbers/*/n.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="damaged") as caught:
        _run(tmp_path)
    assert str(path) in str(caught.value)
