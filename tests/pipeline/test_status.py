import io

from rich.console import Console

from pipeline.run_record import RunRecord, read_record
from pipeline.status import ABANDONED, status_view
from pipeline.storage import Storage
from tests.stages.report.synthetic import make_run


def _text(record, *, abandoned=False):
    sink = io.StringIO()
    Console(file=sink, width=140).print(status_view(record, abandoned=abandoned))
    return sink.getvalue()


def _line(text, name):
    return next(line for line in text.splitlines() if f" {name} " in line)


def _record(**stages):
    return {
        "state": "running",
        "config_digest": "c" * 64,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": None,
        "error": None,
        "stages": stages,
    }


def test_status_of_a_real_record_shows_state_rows_seconds_and_place(tmp_path):
    run = make_run(tmp_path / "run", 60, bits=0)
    record = RunRecord(str(tmp_path), Storage(), {"seed": 0}, ["pool", "train", "subset"])
    pool = run.inputs["pool"]
    record.stage("pool", "done", pool, f"{pool.root}/manifest.json")
    record.stage("train", "running")
    text = _text(read_record(str(tmp_path), Storage()))
    assert "running, 1 of 3 stages finished" in text
    assert all(part in _line(text, "pool") for part in ("done", "3.1", "run/store/pool"))
    assert "running" in _line(text, "train")
    assert "waiting" in _line(text, "subset")


def test_status_of_a_run_that_was_killed_says_so():
    running = _record(pool={"state": "running"})
    told = " ".join(_text(running, abandoned=True).split())
    assert ABANDONED in told
    assert ABANDONED not in " ".join(_text(running).split())
    assert ABANDONED not in " ".join(_text({**running, "state": "done"}, abandoned=True).split())


def test_status_reused_stages_count_as_finished():
    text = _text(_record(pool={"state": "reused"}, train={"state": "done"}, subset={"state": "failed"}))
    assert "2 of 3 stages finished" in text
    assert "failed" in _line(text, "subset")


def test_status_counts_are_shown_where_the_record_has_them():
    counts = {"seen": 8192, "out": 2400, "dropped": {"below": 5000, "unscored": 752}, "quarantined": 40}
    text = _text(_record(subset={"state": "done", "counts": counts}))
    assert "8,192 in, 2,400 out, 5,752 dropped, 40 quarantined" in text


def test_status_of_failed_run_shows_the_error_as_text():
    record = {**_record(pool={"state": "failed"}), "state": "failed", "error": "no pool\n  where: [bold]x[/bold]"}
    text = _text({**record, "finished": "2026-01-02"})
    assert "[bold]x[/bold]" in text
    assert "ended 2026-01-02" in text
