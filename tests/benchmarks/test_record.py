"""Lines, targets, and what is kept of them."""

import json

import pytest

from benchmarks import record
from benchmarks.measure import Ratio
from benchmarks.record import Line, Target


def line(median=1.0, low=0.9, high=1.1, target=None):
    return Line("ours", "theirs", Ratio(median, low, high), target, 10, {"rows": 1_000_000}, {"ours": 1.5}, {"x": "y"})


@pytest.mark.parametrize(
    ("low", "high", "target", "missed"),
    [
        (0.9, 1.1, Target(1.0, "lower"), False),  # the better end reaches it
        (1.01, 1.1, Target(1.0, "lower"), True),
        (1.0, 1.1, Target(1.0, "lower"), False),
        (9.0, 10.0, Target(10.0, "higher"), False),
        (8.0, 9.9, Target(10.0, "higher"), True),
        (8.0, 9.9, None, False),
    ],
)
def test_target_is_missed_when_the_better_end_misses_it(low, high, target, missed):
    assert line(low=low, high=high, target=target).missed is missed


@pytest.mark.parametrize(
    ("target", "said"), [(Target(2.5, "lower"), "at most 2.5"), (Target(10, "higher"), "at least 10")]
)
def test_target_reads_as_a_person_would_say_it(target, said):
    assert str(target) == said


def test_saved_lines_are_loaded_by_form_with_where_and_how_they_were_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    short = record.save("toy", "short", [line(target=Target(0.5, "lower"))])
    full = record.save("toy", "full", [line(), line()])
    (tmp_path / "results" / "other.json").write_text('{"no": "form"}')
    assert (short.name, full.name) == ("toy.short.json", "toy.json")
    assert len(record.load("full")) == 2
    ((case, loaded),) = record.load("short")
    assert case == "toy"
    assert loaded["missed"] is True
    assert loaded["counts"] == {"rows": 1_000_000}
    assert loaded["ratio"] == {"median": 1.0, "low": 0.9, "high": 1.1}
    body = json.loads(short.read_text())
    assert body["command"].startswith("python -m benchmarks")
    assert body["machine"]["cpus"] >= 1
    assert body["machine"]["processor"]
    assert {"python", "polars", "ray", "numpy"} <= set(body["versions"])
    assert body["source"] is None or len(body["source"]) >= 12


@pytest.mark.parametrize(
    "text",
    ["", '{"case": "toy", "form": "full", "li', "[]", '{"form": "Full", "lines": []}', '{"form": "full"}',
     '{"case": "toy", "form": "full", "lines": [{"what": "x"}]}'],
)  # fmt: skip
def test_damaged_file_of_results_is_named(tmp_path, monkeypatch, text):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    (tmp_path / "toy.json").write_text(text)
    with pytest.raises(ValueError, match=r"toy\.json is not a result .*measure again"):
        record.load("full")


def test_case_that_is_not_complete_takes_no_files_place(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    record.save("toy", "full", [line(), line()])
    record.save("toy", "full", [line()], complete=False)
    assert len(record.load("full")) == 2
    record.save("toy", "full", [line()])
    assert len(record.load("full")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["toy.json"]
