"""A run as a whole, as far as it goes without training: refusals, locks, and the lines that close it."""

import json
from pathlib import Path

import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.curation import Curation
from pipeline.errors import UserError
from pipeline.progress import Reporter
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.report.findings import findings
from tests.artifacts import commit
from tests.stages.report.test_findings import SUMMARY

TINY = (Path(__file__).parents[1] / "configs" / "tiny.yaml").read_text()


def _curation(tmp_path, *overrides):
    places = (f"output={tmp_path / 'run'}", f"pool.path={tmp_path / 'shards'}", f"pool.metadata={tmp_path / 'meta'}")
    return Curation.from_text(TINY, [*places, *overrides], "tiny.yaml", Reporter())


def test_store_lies_below_the_output_unless_it_is_named(tmp_path):
    assert _curation(tmp_path).place.store == str(tmp_path / "run" / "store")
    assert _curation(tmp_path, f"store={tmp_path / 'shared'}").place.store == str(tmp_path / "shared")


def test_configuration_that_cannot_vote_is_refused_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        _curation(tmp_path, "selectors={}")
    assert error.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_run_without_pool_is_refused_and_writes_nothing(tmp_path):
    with pytest.raises(UserError, match="input is not there") as error:
        _curation(tmp_path).run()
    assert str(tmp_path / "shards") in str(error.value)
    assert not (tmp_path / "run").exists()


def test_plan_needs_no_data_and_writes_nothing(tmp_path):
    table, totals = _curation(tmp_path, "pool.expected_samples=512").plan()
    assert table.row_count == len(_curation(tmp_path).nodes)
    assert totals
    assert list(tmp_path.iterdir()) == []


def test_plan_until_a_stage_lists_what_it_needs_alone(tmp_path):
    assert _curation(tmp_path, "pool.expected_samples=512").plan("pool")[0].row_count == 1


def test_plan_says_which_limits_would_refuse_it(tmp_path: Path) -> None:
    bounded = ("pool.expected_samples=512", "limits.usd=1e-9", "limits.hours=1e-9")
    _, totals = _curation(tmp_path, *bounded).plan()
    first, last = totals.split("\n")
    assert first.startswith("to run: ")
    assert last.startswith("beyond limits.usd: ")
    assert last.endswith("at most 1e-09; such a run is refused")
    assert "\n" not in _curation(tmp_path, "pool.expected_samples=512", "limits.usd=1e9").plan()[1]


def _finished(tmp_path, *names):
    found = {}
    for name in names:
        root = tmp_path / "run" / name
        entry = ArtifactWriter(str(root), Storage()).put_bytes("summary.json", json.dumps(SUMMARY).encode())
        found[name] = commit(root, name, StageResult((entry,)))
    return found


def test_closing_lines_name_report_subset_shards_and_the_five_findings(tmp_path):
    lines = _curation(tmp_path)._closing_lines(_finished(tmp_path, "report", "subset", "shards"))
    run = tmp_path / "run"
    assert lines[:4] == [
        "",
        f"report  {run}/report/index.html",
        f"subset  {run}/subset/sample_ids.npy",
        f"shards  {run}/shards",
    ]
    assert lines[4:] == ["", *(f"- {line}" for line in findings(SUMMARY))]


def test_closing_lines_without_shards_and_report_name_the_subset_alone(tmp_path):
    lines = _curation(tmp_path)._closing_lines(_finished(tmp_path, "subset"))
    assert lines == ["", f"subset  {tmp_path / 'run'}/subset/sample_ids.npy"]
