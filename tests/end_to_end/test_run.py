"""A whole run: results that add up, a re-run that does nothing, equal bytes, a report."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.run_record import open_artifacts
from pipeline.storage import Storage
from tests.end_to_end.runs import TINY, digests, gradsieve, run_tiny

QUICK = ("evaluate=off", "cluster.executor=in_process")

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> str:
    """The finished run's store as a setting; a copy, so that what other configurations add stays out of that run."""
    return f"store={shutil.copytree(finished / 'store', tmp_path / 'store', copy_function=os.link)}"


def _summary(output: Path) -> dict[str, dict[str, object]]:
    loaded: dict[str, dict[str, object]] = json.loads((output / "report/summary.json").read_text())
    return loaded


def _kept_uids(output: Path) -> set[tuple[int, int]]:
    return {(int(hi), int(lo)) for hi, lo in np.load(output / "subset/sample_ids.npy").tolist()}


def test_run_ends_by_telling_where_results_are_and_what_was_found(finished: Path) -> None:
    lines = (finished.parents[1] / "stdout.txt").read_text().strip().splitlines()
    for name in ("report/index.html", "subset/sample_ids.npy", "shards"):
        assert any(line.endswith(str(finished / name)) for line in lines)
        assert (finished / name).exists()
    assert len([line for line in lines if line.startswith("- ")]) == 5


def _assert_quiet(shown: str) -> None:
    """Progress and warnings of ours; nothing of a library's own."""
    for noise in ("Traceback", "INFO worker.py", "(raylet)", "(pid=", "FutureWarning", "TrainController"):
        assert noise not in shown


def test_run_in_one_process_shows_no_noise_of_libraries(finished: Path) -> None:
    _assert_quiet((finished.parents[1] / "stderr.txt").read_text())


def test_samples_are_kept_dropped_or_quarantined_and_nothing_else(finished: Path) -> None:
    summary = _summary(finished)
    dropped = summary["select"]["dropped"]
    assert isinstance(dropped, dict)
    pool = summary["pool"]
    assert pool["samples"] == summary["select"]["kept"] + sum(dropped.values()) + pool["quarantined"]
    truth = pl.read_parquet(finished.parents[1] / "pool/truth.parquet")
    assert pool["samples"] <= truth.height  # the truncated tar hides some of what was written
    assert pool["quarantined"] > 0
    assert pool["missing"] > 0


def test_shards_hold_each_kept_uid_once_with_its_original_bytes(finished: Path) -> None:
    found: dict[tuple[int, int], bytes] = {}
    for path in sorted((finished / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
        for name, data in members.items():
            if name.endswith(".json"):
                uid = json.loads(data)["uid"].zfill(32)
                key = (int(uid[:16], 16), int(uid[16:], 16))
                assert key not in found
                found[key] = members[name.removesuffix("json") + "jpg"]
    assert set(found) == _kept_uids(finished)
    originals: set[bytes] = set()
    for path in sorted((finished.parents[1] / "pool/shards").glob("*.tar")):
        try:
            with tarfile.open(path) as tar:
                originals |= {tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")}  # type: ignore[union-attr]
        except tarfile.ReadError:
            continue  # the truncated one
    assert len(set(found.values()) - originals) <= 64  # only what lies before the cut of the truncated tar


def test_shard_sizes_differ_by_at_most_one(finished: Path) -> None:
    sizes = json.loads((finished / "shards/sizes.json").read_text())
    assert sum(sizes.values()) == len(_kept_uids(finished))
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert max(sizes.values()) <= 50


def test_summary_has_the_promised_figures(finished: Path) -> None:
    summary = _summary(finished)
    for key in ("samples", "quarantined", "missing"):
        assert isinstance(summary["pool"][key], int)
    assert summary["scores"]["coverage"] == 1.0
    assert {"kept", "dropped"} <= set(summary["select"])
    assert summary["label_model"]["method"] == "label_model"
    assert set(summary["seconds"]) >= {"pool", "training/mimic", "votes", "decisions", "subset"}
    truth = summary["truth"]
    for name in ("mimic", "loss", "clip_score", "reference_clip_score", "p_keep"):
        assert 0 <= truth[f"{name}_auc"] <= 1
    assert 0 < truth["pool_clean_share"] < 1
    assert truth["clip_score_auc"] > 0.6  # informative by construction, whatever the tiny training learns


def test_rerun_of_a_finished_run_does_nothing_and_needs_neither_ray_nor_torch(finished: Path) -> None:
    before = digests(finished)
    script = (
        "import sys\nfrom pipeline.cli.app import main\n"
        f"try: main(['run', {str(TINY)!r}])\n"
        "except SystemExit as leave: assert not leave.code, leave.code\n"
        "heavy = {'ray', 'torch', 'open_clip', 'snorkel', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=finished.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "everything is done already" in result.stderr
    assert digests(finished) == before


def test_second_run_elsewhere_gives_identical_subset_and_shards(finished: Path) -> None:
    """Another output, and Ray for training and the data stages instead of one process: the same bytes, no noise."""
    result = run_tiny(finished.parents[1], "output=runs/again", "cluster.executor=ray")
    assert result.returncode == 0, result.stderr
    _assert_quiet(result.stdout + result.stderr)
    again = finished.parent / "again"
    for deliverable in ("subset", "shards"):
        assert digests(again / deliverable) == digests(finished / deliverable)
    one, other = (open_artifacts(str(run), Storage()) for run in (finished, again))
    assert {name: a.manifest.content for name, a in one.items() if name != "report"} == {
        name: a.manifest.content for name, a in other.items() if name != "report"
    }


def test_config_change_reruns_only_what_depends_on_it(finished: Path, store: str) -> None:
    workplace = finished.parents[1]
    result = run_tiny(workplace, "output=runs/quarter", store, "select.rule.top.fraction=0.25", *QUICK)
    assert result.returncode == 0, result.stderr
    record = json.loads((workplace / "runs/quarter/run.json").read_text())
    states = {name: entry["state"] for name, entry in record["stages"].items()}
    assert {name for name, state in states.items() if state == "done"} == {"subset", "shards", "report"}
    kept, fewer = _kept_uids(finished), _kept_uids(workplace / "runs/quarter")
    assert fewer < kept


def test_deliverables_of_a_smaller_result_leave_no_stale_shard(finished: Path, store: str) -> None:
    workplace = finished.parents[1]
    output = "output=runs/shrinking"
    assert run_tiny(workplace, output, store, *QUICK).returncode == 0
    wide = set(digests(workplace / "runs/shrinking/shards"))
    assert run_tiny(workplace, output, store, *QUICK, "select.rule.top.fraction=0.1").returncode == 0
    narrow = set(digests(workplace / "runs/shrinking/shards"))
    assert narrow < wide
    sizes = json.loads((workplace / "runs/shrinking/shards/sizes.json").read_text())
    assert {name for name in narrow if name.endswith(".tar")} == set(sizes)


def test_until_stops_early_and_leaves_the_rest_undone(finished: Path, store: str) -> None:
    workplace = finished.parents[1]
    result = run_tiny(workplace, "output=runs/early", store, "aggregate.steps=900", *QUICK, "--until", "aggregate")
    assert result.returncode == 0, result.stderr
    record = json.loads((workplace / "runs/early/run.json").read_text())
    assert "subset" not in record["stages"]
    assert record["stages"]["decisions"]["state"] == "done"
    assert not (workplace / "runs/early/subset").exists()


def test_status_and_explain_work_from_the_output_folder_alone(finished: Path) -> None:
    workplace = finished.parents[1]
    status = gradsieve("status", str(finished), cwd=workplace)
    assert status.returncode == 0, status.stderr
    for name in ("pool", "training/mimic", "shards"):
        assert name in status.stdout
    hi, lo = np.load(finished / "subset/sample_ids.npy")[0]
    explained = gradsieve("explain", str(finished), f"{hi:016x}{lo:016x}", cwd=workplace)
    assert explained.returncode == 0, explained.stderr
    for part in ("kept", "mimic", "clip_score", ".tar"):
        assert part in explained.stdout
    unknown = gradsieve("explain", str(finished), "f" * 32, cwd=workplace)
    assert unknown.returncode == 2
    assert "Traceback" not in unknown.stderr
    assert gradsieve("status", str(workplace / "nothing"), cwd=workplace).returncode == 2


def test_report_is_one_page_that_needs_nothing_else(finished: Path) -> None:
    page = (finished / "report/index.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    for outside in ('src="http', "src='http", 'href="http', "@import", "url(http"):
        assert outside not in page
    assert "data:image/jpeg;base64," in page


def test_other_truth_changes_the_report_and_nothing_else(finished: Path, store: str) -> None:
    """What is known of the ills reaches the report only: no stage before it depends on it."""
    workplace = finished.parents[1]
    truth = pl.read_parquet(workplace / "pool/truth.parquet")
    truth.with_columns(~pl.col("mismatched")).write_parquet(workplace / "other_truth.parquet")
    arguments = ("output=runs/other_truth", store, "report.truth=other_truth.parquet")
    result = run_tiny(workplace, *arguments, *QUICK)
    assert result.returncode == 0, result.stderr
    for deliverable in ("subset", "shards"):
        assert digests(workplace / "runs/other_truth" / deliverable) == digests(finished / deliverable)
    record = json.loads((workplace / "runs/other_truth/run.json").read_text())
    made = {name for name, entry in record["stages"].items() if entry["state"] == "done"}
    assert made == {"subset", "shards", "report"}  # deliverables of another output
    assert _summary(workplace / "runs/other_truth")["truth"] != _summary(finished)["truth"]
