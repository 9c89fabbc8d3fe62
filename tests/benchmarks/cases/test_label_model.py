"""Label model against Snorkel's."""

from benchmarks.cases import label_model
from tests.benchmarks.cases.conftest import check


def test_label_model_case_agrees_with_snorkel(monkeypatch, in_process):
    in_process(label_model)
    monkeypatch.setitem(label_model._SIZES, "short", label_model._Size((5, 12), 3_000, 1, 1, 1, 2_000, 1))
    lines = check(label_model.measure("short"))
    assert len(lines) == 8
    twelve = lines["label model, 12 voters: count, fit and predict, times faster / Snorkel, at the size given"]
    assert twelve.counts == {"rows": 2000, "voters": 12}
    assert twelve.facts["largest_difference"] < 1e-5
