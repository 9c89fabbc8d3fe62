"""Each promise of docs/GUARANTEES.md names tests, and the tests are there."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "GUARANTEES.md").read_text()
_PROMISES = re.compile(r"^\| promise \| test \|\n\|---\|---\|\n((?:\|.*\|\n)+)", re.MULTILINE)
_NAMED = re.compile(r"`((?:tests/[\w/]+\.py)?)::(\w+)`")
_LOOSE = re.compile(r"`tests/[\w/.]+`")


@cache
def _tests_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def missing_tests(cell: str) -> list[str]:
    """Names in a table's cell that are no test; `::name` alone means the file named before it."""
    missing, path = [], ""
    for named, name in _NAMED.findall(cell):
        path = named or path
        there = (ROOT / path).is_file() and name.startswith("test_") and name in _tests_in(path)
        if not there:
            missing.append(f"{path}::{name}")
    return missing


def _rows() -> list[tuple[str, str]]:
    rows = []
    for table in _PROMISES.findall(TEXT):
        for line in table.splitlines():
            promise, _, tests = line.strip("| ").rpartition(" | ")
            rows.append((promise, tests))
    return rows


def test_every_promise_stands_beside_tests_that_exist() -> None:
    rows = _rows()
    assert len(rows) > 30
    for promise, tests in rows:
        assert _NAMED.search(tests), f"no test beside: {promise}"
        assert missing_tests(tests) == [], promise
        assert _LOOSE.sub("", tests) == tests, f"a file without the name of a test beside: {promise}"


def test_every_table_of_promises_is_read() -> None:
    assert TEXT.count("| promise |") == len(_PROMISES.findall(TEXT)) == 8
    assert TEXT.count("::test_") == sum(tests.count("::test_") for _, tests in _rows())


def test_name_that_is_no_test_is_missing() -> None:
    here = "tests/test_guarantees.py"
    assert (
        missing_tests(f"`{here}::test_name_that_is_no_test_is_missing`, `::test_every_table_of_promises_is_read`") == []
    )
    assert missing_tests(f"`{here}::test_of_nothing`") == [f"{here}::test_of_nothing"]
    assert missing_tests(f"`{here}::missing_tests`") == [f"{here}::missing_tests"]
    assert missing_tests("`tests/test_of_nothing.py::test_a`") == ["tests/test_of_nothing.py::test_a"]


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`make ([\w-]+)`", TEXT))
    assert targets == {"test", "test-object-store", "cluster-test", "chaos"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
