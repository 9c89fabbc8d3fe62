"""The log in a run's storage: whole, in order, in objects that never change, and never the end of a run."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline import run_log
from pipeline.errors import RunError
from pipeline.progress import Reporter
from pipeline.run_log import RunLog, follow_log, logged, read_log
from pipeline.storage import Storage
from tests.pipeline.test_runner import _run as run_toy_stages

STORAGE = Storage()


@pytest.fixture
def reporter() -> Iterator[Reporter]:
    with Path("/dev/null").open("w") as sink:
        yield Reporter(Console(file=sink, record=True, width=200))


def _texts(output: Path) -> list[str]:
    return [event["text"] for event in read_log(str(output), STORAGE) if "text" in event]


def test_what_is_told_is_found_again_in_order_with_its_time(tmp_path: Path, reporter: Reporter) -> None:
    with logged(str(tmp_path), STORAGE, reporter):
        reporter.say("first")
        reporter.warn("second")
        reporter.warn("second")
        reporter.event("stage", {"stage": "pool", "state": "done"})
    reporter.say("after the end")
    events = list(read_log(str(tmp_path), STORAGE))
    assert [event["kind"] for event in events] == ["said", "warning", "stage"]
    assert _texts(tmp_path) == ["first", "second"]
    assert events[2]["stage"] == "pool"
    times = [event["time"] for event in events]
    assert times == sorted(times)
    assert all(time.endswith("+00:00") for time in times)


def test_attempts_follow_one_another_and_no_object_changes(tmp_path: Path, reporter: Reporter) -> None:
    for text in "abc":
        with logged(str(tmp_path), STORAGE, reporter):
            reporter.say(text)
    assert _texts(tmp_path) == ["a", "b", "c"]
    assert len(list((tmp_path / "log").iterdir())) == 3
    assert all(path.name == "000000.jsonl" for path in tmp_path.glob("log/*/*"))


def test_lines_are_put_in_pieces_while_the_run_is_at_work(tmp_path: Path, reporter: Reporter) -> None:
    log = RunLog(str(tmp_path), STORAGE, reporter, seconds=0.01)
    log.start()
    for number in range(3):
        log.event("said", {"text": str(number)})
        while len(list(tmp_path.glob("log/*/*.jsonl"))) <= number:
            threading.Event().wait(0.005)
    log.close()
    assert _texts(tmp_path) == ["0", "1", "2"]


@given(st.lists(st.text(max_size=30), max_size=20))
def test_any_text_is_one_line_of_json(texts: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, Path("/dev/null").open("w") as sink:
        log = RunLog(folder, STORAGE, Reporter(Console(file=sink)))
        for text in texts:
            log.event("said", {"text": text})
        log._put()
        assert [event["text"] for event in read_log(folder, STORAGE)] == [
            text.encode(errors="replace").decode() for text in texts
        ]


def test_store_that_takes_nothing_costs_a_warning_and_no_line(
    tmp_path: Path, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(str(tmp_path), STORAGE, reporter)
    log.event("said", {"text": "kept"})

    def fails(*_: object) -> None:
        raise RunError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(run_log.Storage, "put", fails)
        log._put()
    assert "the run's log could not be written: the store is away" in reporter.console.export_text()
    log._put()
    assert _texts(tmp_path) == ["kept"]


def test_lines_beyond_what_is_held_are_counted(
    tmp_path: Path, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "_MOST_LINES", 3)
    log = RunLog(str(tmp_path), STORAGE, reporter)
    for number in range(5):
        log.event("said", {"text": str(number)})
    log._put()
    log.event("said", {"text": "5"})
    log._put()
    assert _texts(tmp_path) == ["0", "1", "2", "5"]
    assert [event["lines"] for event in read_log(str(tmp_path), STORAGE) if event["kind"] == "lost"] == [2]


def test_line_that_was_cut_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "log/a").mkdir(parents=True)
    (tmp_path / "log/a/000000.jsonl").write_text('{"text": "whole"}\n{"text": "cu')
    assert _texts(tmp_path) == ["whole"]


def test_followed_log_goes_on_with_what_comes(tmp_path: Path, reporter: Reporter) -> None:
    log = RunLog(str(tmp_path), STORAGE, reporter)
    log.event("said", {"text": "a"})
    log._put()
    events = follow_log(str(tmp_path), STORAGE, poll=0.01)
    assert next(events)["text"] == "a"
    log.event("said", {"text": "b"})
    log._put()
    assert next(events)["text"] == "b"


def test_progress_is_told_to_listeners_now_and_then(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr("pipeline.progress._LINE_EVERY_SECONDS", 0.0)
    with (
        reporter.heard_by(lambda kind, fields: heard.append((kind, dict(fields)))),
        reporter.bar("x", 4, "rows") as bar,
    ):
        bar.advance(3, "a note")
    (kind, fields), *_ = heard
    assert kind == "progress"
    assert {key: fields[key] for key in ("work", "done", "total", "unit", "note")} == {
        "work": "x", "done": 3, "total": 4, "unit": "rows", "note": "a note"
    }  # fmt: skip


def test_stages_of_a_run_are_events_with_their_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, object]] = []
    monkeypatch.setattr(
        Reporter, "event", lambda _, kind, fields: heard.append(dict(fields)) if kind == "stage" else None
    )
    run_toy_stages(tmp_path)
    assert [(event["stage"], event["state"]) for event in heard] == [
        ("numbers", "running"), ("numbers", "done"), ("even", "running"), ("even", "done")
    ]  # fmt: skip
    assert heard[3]["counts"] == {"seen": 10, "out": 5, "dropped": {"odd": 5}, "quarantined": 0}


def test_command_prints_the_log_and_names_a_folder_without_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli.app", "log", str(tmp_path)]
    root = Path(__file__).parents[2]
    absent = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert absent.returncode == 2
    assert "no run here" in absent.stderr
    run_toy_stages(tmp_path)
    command[-1] = str(tmp_path / "out")
    (tmp_path / "out/log/a").mkdir(parents=True)
    (tmp_path / "out/log/a/000000.jsonl").write_text('{"kind": "said", "text": "größer"}\n')
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == {"kind": "said", "text": "größer"}
