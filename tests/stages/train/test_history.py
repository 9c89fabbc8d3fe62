import numpy as np

from stages.train.history import SCHEMA, History
from stages.train.step import Outcome


def outcome(temperature: float | None, scores: list[float] | None) -> Outcome:
    scored = np.array([True, True, True, False])
    found = None if scores is None else np.array(scores)
    return Outcome(np.array([1.0, 2.0, 6.0, 99.0]), found, np.full(4, 0.25), scored, temperature, 0.9, 2.0)


def append(history: History, step: int, found: Outcome) -> None:
    history.append(found, step=step, epoch=0, samples_seen=4 * step + 4, learning_rate=0.1, logit_scale=2.6)


def test_history_row_leaves_fillers_out() -> None:
    history = History()
    append(history, 0, outcome(0.05, [0.0, 1.0, 2.0, 1e9]))
    row = history.table().to_pylist()[0]
    assert row["loss"] == 3.0
    assert (row["score_q10"], row["score_q50"], row["score_q90"]) == (0.2, 1.0, 1.8)
    assert row["temperature"] == 0.05
    assert row["effective_batch"] == 0.9


def test_history_what_a_step_has_not_is_null() -> None:
    history = History()
    append(history, 0, outcome(None, None))
    append(history, 1, outcome(np.inf, [1.0, 1.0, 1.0, 1.0]))
    first, second = history.table().to_pylist()
    assert first["temperature"] is None
    assert first["score_q50"] is None
    assert second["temperature"] is None
    assert second["score_q50"] == 1.0


def test_history_goes_on_from_a_table() -> None:
    whole, early = History(), History()
    for step in range(4):
        append(whole, step, outcome(0.1, [0.0, float(step), 2.0, 3.0]))
        if step < 2:
            append(early, step, outcome(0.1, [0.0, float(step), 2.0, 3.0]))
    late = History(early.table())
    assert late.table().num_rows == 2
    for step in (2, 3):
        append(late, step, outcome(0.1, [0.0, float(step), 2.0, 3.0]))
    assert late.table().equals(whole.table())
    assert late.table().schema == SCHEMA
