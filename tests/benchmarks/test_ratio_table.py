"""The README's table of ratios is that of the kept results, and nothing else."""

import json
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.measure import Ratio
from benchmarks.ratio_table import BEGIN, DOCUMENT, END, rewritten, table_of_kept
from benchmarks.record import Line, Target

TEXT = DOCUMENT.read_text()


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    return tmp_path


def keep(case: str, form: str, what: str, median: float) -> None:
    ratio = Ratio(median, median - 0.01, median + 0.01)
    record.save(case, form, [Line(what, "theirs", ratio, Target(1, "lower"), 10, {"rows": 5_000})])


def test_readme_holds_the_table_of_the_kept_results() -> None:
    assert rewritten(TEXT) == TEXT, "run `python -m benchmarks.ratio_table`"


def test_readme_shows_every_kept_case_of_benchmarks() -> None:
    kept = {json.loads(path.read_text()).get("form"): path for path in record.RESULTS.glob("*.json")}
    assert set(kept) - {None}, "no results are kept"
    shown = table_of_kept()
    for form in ("full", "short"):
        for case, line in record.load(form):
            assert line["what"] in shown, f"{case} is not shown"


def test_readme_table_prefers_the_full_form(results: Path) -> None:
    keep("b", "short", "quick look", 0.5)
    keep("b", "full", "long look", 1.5)
    keep("a", "short", "only look", 0.25)
    rows = table_of_kept().splitlines()[2:]
    assert rows == [
        "| only look | theirs | 0.250 (0.240 to 0.260) | at most 1 | 5,000 rows | 10 | short | ok |",
        "| long look | theirs | 1.500 (1.490 to 1.510) | at most 1 | 5,000 rows | 10 | full | MISS |",
    ]


def test_readme_without_its_table_gets_it_back() -> None:
    before, _, rest = TEXT.partition(BEGIN)
    assert rewritten(before + BEGIN + "\nold\n" + END + rest.partition(END)[2]) == TEXT
