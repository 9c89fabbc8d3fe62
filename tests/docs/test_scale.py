"""docs/SCALE.md holds what the plans say now, and names files that are there."""

import re

import pytest

from benchmarks.scale_tables import BEGIN, DOCUMENT, END, SCALES, planned, rewritten, tables

TEXT = DOCUMENT.read_text()


def test_tables_of_the_document_are_those_of_the_plans() -> None:
    assert rewritten(TEXT) == TEXT, "run `python -m benchmarks.scale_tables`"


def test_table_has_a_row_a_stage_and_its_sums() -> None:
    shown = tables()
    for name in SCALES:
        lines, _ = planned(name)
        for line in lines:
            assert f"| {line.name} | {line.plan.output.rows:,} |" in shown
        assert f"{sum(line.plan.partitions for line in lines):,}" in shown


def test_document_without_its_tables_gets_them_back() -> None:
    before, _, rest = TEXT.partition(BEGIN)
    assert rewritten(before + BEGIN + "\nold\n" + END + rest.partition(END)[2]) == TEXT


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:stages|pipeline|tests|benchmarks)/[\w/.]+\.\w+)`", TEXT)))
)
def test_file_that_the_document_names_is_there(path: str) -> None:
    assert (DOCUMENT.parents[1] / path).is_file()
