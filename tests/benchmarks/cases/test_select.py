"""The rule against Polars and pandas."""

import numpy as np
import pytest

from benchmarks.cases import select
from tests.benchmarks.cases.conftest import check


def test_select_case_keeps_the_samples_that_polars_and_pandas_keep(monkeypatch, in_process):
    in_process(select)
    monkeypatch.setitem(select._SIZES, "short", select._Size(3_000, 1, 2, 1, 1))
    lines = check(select.measure("short"))
    assert {line.counts["rows"] for line in lines.values()} == {3000}
    assert all(100 < line.counts["kept"] < 900 for line in lines.values())


def test_select_case_in_which_a_contender_keeps_others_fails(tmp_path):
    for name, numbers in (("ours-1", [1, 2]), ("polars-2", [1, 3])):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "sample_ids.npy", np.array(numbers))
    with pytest.raises(AssertionError, match="keeps other samples"):
        select._check_same_subsets(tmp_path)
