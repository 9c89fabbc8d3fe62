"""The command: which cases run, what is printed, what its exit code says."""

import sys
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command
from benchmarks import record
from benchmarks.measure import Ratio
from benchmarks.record import Line, Target
from pipeline.errors import RunError


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    return tmp_path


def line(what, median, target):
    return Line(what, "theirs", Ratio(median, median - 0.05, median + 0.05), target, 12, {"rows": 2_000_000})


def run(monkeypatch, cases, *arguments):
    """The command with these cases: name -> what `measure` does."""
    modules = {f"benchmarks.cases.{name}": SimpleNamespace(measure=measure) for name, measure in cases.items()}
    monkeypatch.setattr(command, "names", lambda: sorted(cases))
    monkeypatch.setattr(command.importlib, "import_module", modules.__getitem__)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    return command.main()


def lost_rows(form):
    raise AssertionError("ours gave 4 rows, expected 5")


def test_table_has_a_line_with_miss_for_a_missed_target(results, monkeypatch, capsys):
    fast = [line("fast", 0.5, Target(1, "lower")), line("untargeted", 12.34, None)]
    slow = [line("slow", 1.5, Target(1, "lower"))]
    assert run(monkeypatch, {"one": lambda form: fast, "two": lambda form: slow}) == 1
    rows = {row.split(" | ")[0].strip("| "): row for row in capsys.readouterr().out.splitlines()}
    assert rows["fast"].endswith("| ok |")
    assert "0.500 (0.450 to 0.550) | at most 1 | 2,000,000 rows | 12" in rows["fast"]
    assert rows["untargeted"].endswith("|  |")
    assert "12.3 (12.3 to 12.4)" in rows["untargeted"]
    assert rows["slow"].endswith("| MISS |")


def test_command_ends_with_zero_where_all_targets_were_reached(results, monkeypatch, capsys):
    forms = []

    def measure(form):
        forms.append(form)
        return [line("fast", 0.5, Target(1, "lower"))]

    assert run(monkeypatch, {"one": measure}, "--form", "full") == 0
    assert forms == ["full"]
    assert (results / "one.json").exists()
    assert "MISS" not in capsys.readouterr().out


def test_case_that_loses_a_row_fails_and_the_others_are_measured(results, monkeypatch, capsys):
    good = [line("fast", 0.5, Target(1, "lower"))]
    assert run(monkeypatch, {"a": lost_rows, "b": lambda form: good}) == 1
    told = capsys.readouterr()
    assert "a FAILED: ours gave 4 rows, expected 5" in told.err
    assert "fast" in told.out
    assert "| a |  |  |  |  |  | FAILED |" in told.out
    assert not (results / "a.short.json").exists()


def test_case_that_fails_is_not_shown_by_what_an_earlier_run_kept(results, monkeypatch, capsys):
    record.save("a", "short", [line("of an earlier run", 0.5, Target(1, "lower"))])
    assert run(monkeypatch, {"a": lost_rows}) == 1
    assert "of an earlier run" not in capsys.readouterr().out
    assert [kept["what"] for _, kept in record.load("short")] == ["of an earlier run"]


def test_any_error_ends_its_case_alone(results, monkeypatch, capsys):
    def broken(form):
        raise RunError("a file is damaged")

    good = [line("fast", 0.5, Target(1, "lower"))]
    assert run(monkeypatch, {"a": broken, "b": lambda form: good}) == 1
    assert "fast" in capsys.readouterr().out


def test_interrupt_ends_all_and_keeps_what_was_kept(results, monkeypatch, capsys):
    record.save("a", "short", [line("of an earlier run", 0.5, None)])

    def interrupted(form):
        yield line("first", 0.5, None)
        raise KeyboardInterrupt

    assert run(monkeypatch, {"a": interrupted, "b": lost_rows}) == 130
    told = capsys.readouterr().err
    assert "a: interrupted" in told
    assert "b ..." not in told
    assert [kept["what"] for _, kept in record.load("short")] == ["of an earlier run"]


@pytest.mark.parametrize("arguments", [(), ("--table",)])
def test_folder_of_results_that_cannot_be_one_is_said_before_anything_is_measured(
    tmp_path, monkeypatch, capsys, arguments
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "file" if not arguments else tmp_path)
    (tmp_path / "a.json").write_text('{"form": "full", "lines": [')
    assert run(monkeypatch, {"a": lost_rows}, *arguments) == 2
    told = capsys.readouterr()
    assert ("a.json is not a result" if arguments else "file") in told.err
    assert "FAILED" not in told.err + told.out


def test_only_the_named_cases_run_and_are_shown(results, monkeypatch, capsys):
    record.save("b", "short", [line("kept of b", 3.0, None)])
    assert run(monkeypatch, {"a": lambda form: [line("of a", 1.0, None)], "b": lost_rows}, "a") == 0
    shown = capsys.readouterr().out
    assert "of a" in shown
    assert "kept of b" not in shown


def test_table_alone_runs_nothing(results, monkeypatch, capsys):
    record.save("b", "short", [line("kept of b", 3.0, None)])
    assert run(monkeypatch, {"b": lost_rows}, "--table") == 0
    assert "kept of b" in capsys.readouterr().out


def test_table_shows_the_full_form_and_ends_with_one_where_a_target_was_missed(results, monkeypatch, capsys):
    record.save("b", "short", [line("kept of b", 0.5, Target(1, "lower"))])
    record.save("b", "full", [line("all of b", 3.0, Target(1, "lower"))])
    assert run(monkeypatch, {"b": lost_rows}, "--table") == 1
    shown = capsys.readouterr().out
    assert "all of b" in shown
    assert "MISS" in shown
    assert "kept of b" not in shown
    record.save("c", "short", [line("kept of c", 0.5, None)])
    assert run(monkeypatch, {"b": lost_rows, "c": lost_rows}, "--table", "c") == 0
    assert "all of b" not in capsys.readouterr().out


def test_unknown_case_is_refused_with_those_there_are(results, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, {"a": lost_rows}, "b")
    assert "no such case: b; there are a" in capsys.readouterr().err


def test_lines_that_came_before_a_failure_are_shown_and_lie_beside_what_was_kept(results, monkeypatch, capsys):
    record.save("a", "short", [line("of an earlier run", 0.5, None)])

    def measure(form):
        yield line("first", 0.5, Target(1, "lower"))
        lost_rows(form)

    assert run(monkeypatch, {"a": measure}) == 1
    told = capsys.readouterr()
    assert "a FAILED" in told.err
    assert "first" in told.out
    assert [kept["what"] for _, kept in record.load("short")] == ["of an earlier run"]
    assert '"first"' in (results / "a.short.partial").read_text()
