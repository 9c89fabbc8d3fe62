from collections import Counter
from pathlib import Path

import pytest

from tests.bad_input.case import Case, observe
from tests.bad_input.corpus import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}: {case.name}")
def test_bad_input_ends_as_wanted(case: Case, tmp_path: Path) -> None:
    _, problems = observe(case, tmp_path)
    assert problems == []


def test_names_are_unique() -> None:
    assert [name for name, count in Counter((case.family, case.name) for case in CASES).items() if count > 1] == []
