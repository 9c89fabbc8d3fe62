import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.kernels.score_values import by_sample, scaled_scores

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(-9, 9)), max_size=30)


def table(rows):
    rows = sorted({(uid, visit): (uid, visit, score) for uid, visit, score in rows}.values())
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table(
        {
            "uid_hi": np.zeros(len(rows), np.uint64),
            "uid_lo": np.asarray(columns[0], np.uint64),
            "visit": np.asarray(columns[1], np.uint16),
            "score": np.asarray(columns[2], np.float32) / 3,
        }
    )


@pytest.mark.parametrize("visits", [0, 2, "mean", "last"])
@given(rows=ROWS)
def test_by_sample_equals_grouping_in_python(visits, rows):
    scores = table(rows)
    groups: dict[int, list[tuple[int, float]]] = {}
    for row in scores.to_pylist():
        groups.setdefault(row["uid_lo"], []).append((row["visit"], row["score"]))
    if isinstance(visits, int):
        wanted = {uid: value for uid, group in groups.items() for visit, value in group if visit == visits}
    elif visits == "last":
        wanted = {uid: group[-1][1] for uid, group in groups.items()}
    else:
        wanted = {uid: np.float32(np.mean([value for _, value in group])) for uid, group in groups.items()}
    found, values = by_sample(scores, scaled_scores(scores, "raw"), visits)
    assert scores["uid_lo"].to_numpy()[found].tolist() == list(wanted)
    assert values.tolist() == pytest.approx(list(wanted.values()))
    assert values.dtype == np.float32


def test_scaled_scores_read_the_columns_of_the_scale():
    scores = pa.table(
        {
            "score": pa.array([1.5], pa.float32()),
            "rank": pa.array([0.25], pa.float32()),
            "z": pa.array([-1.0], pa.float32()),
            "weight": pa.array([0.125], pa.float32()),
            "batch": pa.array([16], pa.uint32()),
        }
    )
    found = {scale: scaled_scores(scores, scale).tolist() for scale in ("raw", "batch_rank", "batch_z", "weight")}
    assert found == {"raw": [1.5], "batch_rank": [0.25], "batch_z": [-1.0], "weight": [2.0]}


@pytest.mark.parametrize("batch", [3, 7, 48, 49, 1000, 4095, 4096, 12345])
def test_scaled_scores_of_the_uniform_weight_are_exactly_one(batch):
    scores = pa.table({"weight": np.full(1, 1 / batch, np.float32), "batch": np.full(1, batch, np.uint32)})
    assert scaled_scores(scores, "weight") <= 1


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_scaled_scores_refuse_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="row 1"):
        scaled_scores(pa.table({"score": np.asarray([0, bad], np.float32)}), "raw")
