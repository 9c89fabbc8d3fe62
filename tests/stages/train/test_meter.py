"""What a training shows while it runs."""

import math
import time
from typing import Any

import numpy as np
import pytest

from stages.train.meter import Meter
from stages.train.step import Outcome
from tests.pipeline.emitted import Emitted, emitted

__all__ = ["emitted"]


def outcome(**changes: Any) -> Outcome:
    body: dict[str, Any] = {
        "losses": np.array([1.0, 3.0, 100.0]), "scores": np.array([0.0, 1.0, 100.0]),
        "weights": np.array([0.5, 0.5, 0.0]), "scored": np.array([True, True, False]), "temperature": 0.1,
        "effective_share": 0.75, "direction_norm": 1.0,
    }  # fmt: skip
    return Outcome(**{**body, **changes})


def test_batch_is_shown_without_its_fillers(emitted: Emitted) -> None:
    meter = Meter("training/x", 3, first=True)
    meter.stepped(outcome())
    meter.stepped(outcome())
    assert emitted.counters["samples", "training/x"] == 6
    assert emitted.gauges["loss", "training/x"] == 2.0
    assert emitted.gauges["effective_batch", "training/x"] == 0.75
    quantiles = {key[2]: value for key, value in emitted.gauges.items() if key[0] == "score"}
    assert quantiles == pytest.approx({"0.1": 0.1, "0.5": 0.5, "0.9": 0.9})


def test_training_without_scores_shows_none(emitted: Emitted) -> None:
    Meter("training/x", 3, first=True).stepped(outcome(scores=None))
    assert not [key for key in emitted.gauges if key[0] == "score"]


def test_loss_that_is_no_number_is_shown_as_such(emitted: Emitted) -> None:
    Meter("training/x", 3, first=True).stepped(outcome(losses=np.array([math.nan, 1.0, 1.0])))
    assert math.isnan(emitted.gauges["loss", "training/x"])


def test_time_is_told_apart_by_who_had_to_wait(emitted: Emitted) -> None:
    def slow() -> Any:
        for batch in range(3):
            time.sleep(0.02)
            yield batch

    seen = []
    for batch in Meter("training/x", 3, first=True).timed(slow()):
        time.sleep(0.05)
        seen.append(batch)
    assert seen == [0, 1, 2]
    assert emitted.counters["train_seconds", "training/x", "data"] >= 3 * 0.02
    assert emitted.counters["train_seconds", "training/x", "step"] >= 3 * 0.05


def test_batches_that_count_as_false_do_not_end_it_early() -> None:
    assert list(Meter("x", 1, first=False).timed(iter([0, "", ()]))) == [0, "", ()]


def test_checkpoint_is_dated_and_so_is_the_beginning(emitted: Emitted) -> None:
    meter = Meter("training/x", 3, first=True)
    began = emitted.gauges["checkpoint_time", "training/x"]
    meter.checkpointed()
    assert time.time() >= emitted.gauges["checkpoint_time", "training/x"] >= began > 1.6e9


def test_other_ranks_are_silent(emitted: Emitted) -> None:
    meter = Meter("training/x", 3, first=False)
    meter.stepped(outcome())
    meter.checkpointed()
    assert list(meter.timed(iter([1, 2]))) == [1, 2]
    assert emitted.counters == emitted.gauges == {}
