import numpy as np
import pyarrow as pa
import pytest

from stages.report.curves import last_row, read_history, thinned


def _history(values, steps=None):
    steps = np.arange(len(values)) if steps is None else steps
    return pa.table({"step": pa.array(steps, pa.int32()), "loss": pa.array(values, pa.float64())})


def test_thinned_short_history_is_unchanged():
    assert thinned(_history([3.0, 2.0, 1.0]), "loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_thinned_long_history_averages_every_step_once():
    values = np.random.default_rng(0).normal(size=1000)
    points = thinned(_history(values), "loss", 10)
    assert len(points) == 10
    assert np.mean([y for _, y in points]) == pytest.approx(values.mean())
    assert points[0] == (pytest.approx(49.5), pytest.approx(values[:100].mean()))


def test_thinned_missing_values_are_left_out():
    assert thinned(_history([None, 1.0, None, 2.0]), "loss") == [(1, 1.0), (3, 2.0)]


def test_thinned_column_without_any_value_is_empty():
    assert thinned(_history([None, None]), "loss") == []


def test_history_of_training_and_its_last_row(finished):
    artifact = finished.inputs["training/mimic"]
    assert read_history(artifact, ["step", "loss"]).num_rows == 120
    assert last_row(artifact)["step"] == 119


def test_history_of_artifact_without_one_is_none(finished):
    assert read_history(finished.inputs["reference"], ["step"]) is None
    assert last_row(finished.inputs["reference"]) == {}
