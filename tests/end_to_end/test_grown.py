"""A series of nights over a pool that grows: the training of the first night serves all, new samples are scored."""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.crash_points import CRASH_AT, EXIT_CODE
from pipeline.curation import Curation
from pipeline.errors import UserError
from pipeline.gc import collect
from pipeline.progress import Reporter
from pipeline.run_record import open_artifacts, read_record, sealed
from pipeline.storage import Storage
from pipeline.verify import verify
from stages.report.explain import explain
from tests.end_to_end.runs import TINY, digests, gradsieve

pytestmark = pytest.mark.slow
NIGHTS = ((0, 1), (0, 1, 2, 3), (1, 2, 3, 4, 5, 6, 7))
"""Shards of the pool: two are added, then four more while one leaves."""
RECOMPUTED = ("pool", "scores/clip_score", "scores/reference_clip_score", "votes", "decisions", "subset", "shards")


def show_shards(workplace: Path, folder: Path, numbers: Sequence[int]) -> None:
    """Let the pool of a series consist of these shards, with their own times."""
    target = folder / "shards"
    target.mkdir(parents=True, exist_ok=True)
    for path in target.glob("*.tar"):
        if int(path.stem) not in numbers:
            path.unlink()
    for number in numbers:
        name = f"{number:08d}.tar"
        if not (target / name).exists():
            shutil.copy2(workplace / "pool/shards" / name, target / name)


def overrides(workplace: Path, folder: Path, *more: str) -> list[str]:
    places = {
        "output": folder / "nightly", "pool.path": folder / "shards", "pool.metadata": workplace / "pool/metadata",
        "reference.trusted": workplace / "pool/trusted.npy", "report.truth": workplace / "pool/truth.parquet",
    }  # fmt: skip
    fixed = ("grow_from=latest", "evaluate=off", "cluster.executor=in_process")
    return [*(f"{key}={value}" for key, value in places.items()), *fixed, *more]


def curation(workplace: Path, folder: Path, *more: str, dated: bool = True) -> Curation:
    settings = overrides(workplace, folder, *more)
    return Curation.from_text(TINY.read_text(), settings, "tiny.yaml", Reporter(), dated=dated)


def run(workplace: Path, folder: Path, *more: str) -> Path:
    """One night; its output."""
    night = curation(workplace, folder, *more)
    night.run()
    return Path(night.place.output)


def contents(output: Path, names: Sequence[str] = RECOMPUTED) -> dict[str, str]:
    artifacts = open_artifacts(str(output), Storage())
    return {name: artifacts[name].manifest.content for name in names}


def stages(output: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_record(str(output), Storage())["stages"]
    return found


def rows(output: Path, name: str = "scores/mimic") -> dict[tuple[int, int, int], dict[str, Any]]:
    tables = open_artifacts(str(output), Storage())[name].tables("bucket-")
    return {(row["uid_hi"], row["uid_lo"], row["visit"]): row for table in tables for row in table.to_pylist()}


@pytest.fixture(scope="module")
def first(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a series with its first night."""
    folder = tmp_path_factory.mktemp("series")
    show_shards(workplace, folder, NIGHTS[0])
    run(workplace, folder)
    return folder


def series_from(first: Path, folder: Path) -> Path:
    """Another series with the same first night; its places stand in the record."""
    shutil.copytree(first, folder)
    (record,) = folder.glob("nightly/2*/run.json")
    record.write_bytes(_moved(record.read_text(), str(first), str(folder)))
    return folder


def _moved(record: str, old: str, new: str, wanted: tuple[str, ...] = ("",)) -> bytes:
    """A record whose artifacts lie elsewhere, those whose names begin as wanted."""
    body = json.loads(record.replace(old, new))
    body.pop("digest")
    body["stages"] = {name: entry for name, entry in body["stages"].items() if name.startswith(wanted)}
    return sealed(body)


@pytest.fixture(scope="module")
def series(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a series for `nights`."""
    return series_from(first, tmp_path_factory.mktemp("grown") / "series")


@pytest.fixture(scope="module")
def nights(workplace: Path, series: Path) -> list[Path]:
    """Outputs of three nights, and of a fourth one to which nothing was added."""
    outputs = [next(series.glob("nightly/2*"))]
    for numbers in (*NIGHTS[1:], NIGHTS[-1]):
        show_shards(workplace, series, numbers)
        outputs.append(run(workplace, series))
    return outputs


def test_training_and_reference_of_the_first_night_serve_all(nights: list[Path]) -> None:
    for output in nights[1:]:
        found = stages(output)
        for name in ("training/base", "training/tuned", "reference", "training/mimic"):
            assert (found[name]["state"], found[name]["root"]) == ("reused", stages(nights[0])[name]["root"])
            assert found[name]["from"]
    assert stages(nights[1])["training/added"]["state"] == "done"


@pytest.mark.ray
def test_night_on_ray_has_the_bytes_of_one_in_process(
    workplace: Path, first: Path, nights: list[Path], tmp_path: Path
) -> None:
    folder = series_from(first, tmp_path / "series")
    show_shards(workplace, folder, NIGHTS[1])
    output = run(workplace, folder, "cluster.executor=ray")
    assert stages(output)["training/added"]["state"] == "done"
    names = (*RECOMPUTED, "training/added", "scores/mimic", "scores/loss")
    assert contents(output, names) == contents(nights[1], names)


def test_scores_of_samples_that_stay_are_carried_over_and_new_ones_scored_once(nights: list[Path]) -> None:
    for name in ("scores/mimic", "scores/loss"):
        for before, after in itertools.pairwise(nights[:3]):
            old, now = rows(before, name), rows(after, name)
            assert all(now[key] == row for key, row in old.items() if key in now)
            fresh = [key for key in now if key not in old]
            assert {visit for _, _, visit in fresh} == {1}, "the last of two"
            assert len({key[:2] for key in fresh}) == len(fresh)
        summary = open_artifacts(str(nights[2]), Storage())[name].summary
        assert [each["method"] for each in summary["passes"]] == ["mimic", "score", "score"]
        assert sum(each["rows"] for each in summary["passes"]) == summary["rows"]
        assert summary["coverage"] == 1


def test_samples_that_left_are_dropped_and_counted(nights: list[Path]) -> None:
    gone = {key for key in rows(nights[1]) if key not in rows(nights[2])}
    counts = open_artifacts(str(nights[2]), Storage())["scores/mimic"].manifest.counts
    assert counts is not None
    assert counts.dropped["left_the_pool"] == len(gone) > 0


def test_voters_on_earlier_visits_abstain_on_new_samples(nights: list[Path]) -> None:
    artifacts = open_artifacts(str(nights[1]), Storage())
    listed = [row for table in artifacts["votes"].tables("bucket-") for row in table.to_pylist()]
    votes = {(row["uid_hi"], row["uid_lo"]): row for row in listed}
    old = {key[:2] for key in rows(nights[0])}
    new = [row for uid, row in votes.items() if uid not in old]
    assert new
    assert {row["mimic__0"] for row in new} == {-1}
    assert {row["mimic__1"] for row in new} == {0, 1}
    assert artifacts["decisions"].summary["voted"] == artifacts["pool"].summary["usable"]


def test_night_to_which_nothing_was_added_takes_all_scores(nights: list[Path]) -> None:
    found = stages(nights[3])
    assert "training/added" not in found
    for name in ("pool", "scores/mimic", "scores/loss", "votes", "decisions"):
        assert found[name]["state"] == "reused", name
    assert contents(nights[3]) == contents(nights[2])


def test_explain_tells_what_gave_a_score(nights: list[Path]) -> None:
    artifacts = open_artifacts(str(nights[1]), Storage())
    before = rows(nights[0])
    old, new = next(iter(before)), next(key for key in rows(nights[1]) if key not in before)
    told = [
        {score.made_by for score in explain(artifacts, f"{hi:016x}{lo:016x}").scores if score.selector == "mimic"}
        for hi, lo, _ in (old, new)
    ]
    first, second = (each["training"] for each in artifacts["scores/mimic"].summary["passes"])
    assert told == [{f"training, {first}"}, {f"a pass with stored weights, {second}"}]


def test_runs_verify_whole(nights: list[Path]) -> None:
    for output in nights:
        assert verify(str(output), Storage(), Reporter()).differences == []


def test_all_but_the_mimic_scores_is_as_from_scratch(workplace: Path, nights: list[Path], tmp_path: Path) -> None:
    """Scratch: a store in which there is nothing but what the first night trained."""
    folder = tmp_path / "scratch"
    show_shards(workplace, folder, NIGHTS[1])
    store = nights[0].parent / "store"
    for name in ("training", "reference", "subset_trusted", "scores/mimic", "scores/loss"):
        shutil.copytree(store / name, folder / "store" / name)
    pool = Path(stages(nights[0])["pool"]["root"])
    shutil.copytree(pool, folder / "store/pool" / pool.name)
    record = (nights[0] / "run.json").read_text()
    wanted = ("training/", "reference", "subset_trusted", "scores/mimic", "scores/loss", "pool")
    (folder / "first").mkdir(parents=True)
    (folder / "first/run.json").write_bytes(_moved(record, str(store), str(folder / "store"), wanted))
    scratch = curation(workplace, folder, f"grow_from={folder / 'first'}", f"store={folder / 'store'}", dated=False)
    scratch.run()
    assert contents(Path(scratch.place.output)) == contents(nights[1])
    assert digests(folder / "nightly/shards") == digests(nights[1] / "shards")


def test_gc_leaves_a_last_run_that_is_whole_and_can_be_grown_from(workplace: Path, first: Path, tmp_path: Path) -> None:
    folder = series_from(first, tmp_path / "gc")
    show_shards(workplace, folder, NIGHTS[1])
    second = run(workplace, folder)
    series = str(folder / "nightly")
    entries_before = len(list((folder / "nightly/store/entries").rglob("manifest.json")))
    collect(series, Storage(), Reporter(), keep=1, agree=lambda _: True)
    assert len(list((folder / "nightly/store/entries").rglob("manifest.json"))) < entries_before
    assert verify(str(second), Storage(), Reporter()).differences == []
    show_shards(workplace, folder, NIGHTS[2])
    third = run(workplace, folder)
    assert [each["method"] for each in _passes(third)] == ["mimic", "score", "score"]


def _passes(output: Path) -> list[dict[str, Any]]:
    passes: list[dict[str, Any]] = open_artifacts(str(output), Storage())["scores/mimic"].summary["passes"]
    return passes


def test_plan_says_what_is_taken_and_what_differs_from_scratch(
    workplace: Path, nights: list[Path], series: Path
) -> None:
    del nights
    show_shards(workplace, series, (*NIGHTS[-1], 0))
    table, _ = curation(workplace, series).plan()
    notes = {str(name): str(note) for name, note in zip(table.columns[0].cells, table.columns[-1].cells, strict=True)}
    show_shards(workplace, series, NIGHTS[-1])
    assert "taken from" in notes["training/mimic"]
    assert "results of earlier tasks are reused" in notes["pool"]
    assert "results of earlier tasks are reused" in notes["scores/reference_clip_score"]
    assert "a training from scratch would give others" in notes["scores/mimic"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("train.learning_rate=3e-4", "other train.learning_rate"),
        ("train.model.embed_dim=16", "other train.model.embed_dim"),
        ("reference.tune.epochs=9", "other reference.tune.epochs"),
        ("seed=1", "other seed"),
    ],
)
def test_earlier_run_that_does_not_fit_is_refused_and_the_difference_named(
    workplace: Path, nights: list[Path], series: Path, change: str, told: str
) -> None:
    del nights
    with pytest.raises(UserError, match="not what this configuration makes") as raised:
        curation(workplace, series, change).graph()
    assert told in str(raised.value)
    assert "grow_from=null" in str(raised.value)


def test_selector_that_the_earlier_run_has_not_is_refused(workplace: Path, nights: list[Path], series: Path) -> None:
    del nights
    with pytest.raises(UserError, match="the earlier run has no scores/other_loss"):
        curation(workplace, series, "selectors.other_loss={kind: loss}").graph()


def test_latest_without_a_series_another_store_and_itself_are_refused(
    workplace: Path, nights: list[Path], series: Path
) -> None:
    with pytest.raises(UserError, match="in none"):
        curation(workplace, series, dated=False).graph()
    with pytest.raises(UserError, match="another store"):
        curation(workplace, series, f"grow_from={nights[0]}", f"output={series / 'other'}", dated=False).graph()
    with pytest.raises(UserError, match="from itself"):
        curation(workplace, series, f"grow_from={nights[0]}", f"output={nights[0]}", dated=False).graph()


@pytest.mark.parametrize(
    "point",
    [
        "before */store/entries/pool/shards/*/manifest.json",
        "after */store/subset_added/*/added/* 2",
        "before */store/training/added/*/manifest.json",
        "after */store/scores/mimic/*/bucket-* 2",
    ],
)
def test_night_that_is_killed_at_a_write_is_done_by_the_next_one_with_the_same_result(
    workplace: Path, first: Path, nights: list[Path], tmp_path: Path, point: str
) -> None:
    folder = series_from(first, tmp_path / "killed")
    show_shards(workplace, folder, NIGHTS[1])
    command = ("run", str(TINY), "--dated", *overrides(workplace, folder))
    died = gradsieve(*command, cwd=workplace, **{CRASH_AT: point})
    assert died.returncode == EXIT_CODE, died.stderr
    again = run(workplace, folder)
    names = (*RECOMPUTED, "scores/mimic", "scores/loss")
    assert contents(again, names) == contents(nights[1], names)
