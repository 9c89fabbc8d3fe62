"""Scheduled runs: each has a folder of its own, unchanged work is reused, and the last ones can be kept alone."""

from pathlib import Path

import pytest

from pipeline.lease import held
from pipeline.progress import Reporter
from pipeline.run_record import read_record
from pipeline.storage import Storage
from tests.end_to_end.runs import TINY, digests, gradsieve

pytestmark = pytest.mark.slow
SETTINGS = ("output=runs/nightly", "evaluate=off", "cluster.executor=in_process")


@pytest.fixture(scope="module")
def series(workplace: Path) -> Path:
    """Two dated runs of one configuration, and a third one of another."""
    for more in ((), (), ("select.rule.top.fraction=0.25",)):
        result = gradsieve("run", str(TINY), "--dated", *SETTINGS, *more, cwd=workplace)
        assert result.returncode == 0, result.stderr
    return workplace / "runs/nightly"


def test_runs_lie_beside_one_another_and_the_second_reuses_what_the_first_made(series: Path) -> None:
    first, second, third = sorted(path for path in series.glob("2*"))
    record = read_record(str(second), Storage())["stages"]
    assert {record[name]["state"] for name in ("pool", "training/mimic", "scores/mimic", "votes", "decisions")} == {
        "reused"
    }
    assert digests(second / "shards") == digests(first / "shards")
    assert digests(third / "subset") != digests(first / "subset")


def test_second_run_of_a_series_is_refused_while_one_is_at_work(series: Path, workplace: Path) -> None:
    with held(str(series), Storage(), Reporter()):
        result = gradsieve("run", str(TINY), "--dated", *SETTINGS, "seed=1", cwd=workplace)
    assert result.returncode == 3, result.stderr


def test_gc_is_dry_by_default_and_leaves_the_last_run_whole(series: Path, workplace: Path) -> None:
    before = digests(series)
    dry = gradsieve("gc", "runs/nightly", "--keep", "1", cwd=workplace)
    assert dry.returncode == 0, dry.stderr
    assert "would be deleted (nothing was; say --delete)" in dry.stdout
    assert digests(series) == before
    done = gradsieve("gc", "runs/nightly", "--keep", "1", "--delete", cwd=workplace)
    assert done.returncode == 0, done.stderr
    (last,) = series.glob("2*")
    verified = gradsieve("verify", str(last), cwd=workplace)
    assert verified.returncode == 0, verified.stderr
    assert "the run is whole" in verified.stdout
