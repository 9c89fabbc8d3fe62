"""Kept results as tables in Markdown, also in the README: `python -m benchmarks.ratio_table` writes that one anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record

DOCUMENT = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- table: python -m benchmarks.ratio_table -->", "<!-- end of table -->"
_HEADS = ("what", "against", "ratio (95 % interval)", "target", "rows", "pairs", "")


def table(lines: Sequence[dict[str, Any]], failed: Sequence[str] = ()) -> str:
    """Ratios beside targets; a missed one says MISS, a case that failed FAILED."""
    rows = [_cells(line) for line in lines]
    return _markdown(_HEADS, [*rows, *((case, *[""] * (len(_HEADS) - 2), "FAILED") for case in failed)])


def kept(cases: Sequence[str] = ()) -> list[tuple[str, str, dict[str, Any]]]:
    """(case, form, line): each case, or those named, in the full form, or in the short one where there is no other."""
    full = record.load("full")
    measured = {case for case, _ in full}
    lines = [(case, "full", line) for case, line in full]
    lines += [(case, "short", line) for case, line in record.load("short") if case not in measured]
    return sorted((each for each in lines if not cases or each[0] in cases), key=lambda each: each[0])


def table_of_kept(cases: Sequence[str] = ()) -> str:
    """All of them, or of the cases named, with their form."""
    rows = [(*_cells(line)[:-1], form, _cells(line)[-1]) for _, form, line in kept(cases)]
    return _markdown((*_HEADS[:-1], "form", ""), rows)


def rewritten(document: str) -> str:
    """The document with the table as the results are now."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table_of_kept()}\n\n{END}{after}"


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    ratio, target = line["ratio"], line["target"]
    return (
        line["what"],
        line["against"],
        f"{_short(ratio['median'])} ({_short(ratio['low'])} to {_short(ratio['high'])})",
        str(record.Target(**target)) if target else "",
        ", ".join(f"{number:,} {name}" for name, number in line["counts"].items()),
        str(line["pairs"]),
        "MISS" if line["missed"] else "ok" if target else "",
    )


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def _short(number: float) -> str:
    return f"{number:.3f}" if number < 2 else f"{number:.1f}"


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text()))
