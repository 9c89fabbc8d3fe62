"""What is said of a training whose numbers went wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.train.divergence import broken_weights_error, diverged_error, not_finite_error, offending_uids
from stages.train.ranks import Ranks
from stages.train.step import Outcome


def _local(size: int) -> SimpleNamespace:
    return SimpleNamespace(uid_hi=np.arange(size, dtype=np.uint64), uid_lo=np.full(size, 255, np.uint64))


def _outcome(loss: float, size: int) -> Outcome:
    full = np.full(size, loss)
    return Outcome(full, None, full, np.ones(size, np.bool_), None, 1.0, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_sample_whose_features_are_not_finite_is_named(value):
    image, text = torch.ones(4, 3), torch.ones(4, 3)
    text[2, 1] = value
    assert offending_uids([image, text], _local(4), Ranks()) == [f"{2:016x}{255:016x}"]


def test_samples_with_finite_features_are_not_named():
    assert offending_uids([torch.ones(4, 3), torch.zeros(4, 3)], _local(4), Ranks()) == []


def test_message_names_step_history_and_sample():
    error = not_finite_error("train, step 7", _outcome(float("nan"), 4), [3.5, 9.25], offending=["ab"], batch_size=4)
    for part in ("train, step 7", "loss nan", "3.5, 9.25", "uid ab", "explain"):
        assert part in str(error)


def test_message_blames_weights_where_no_sample_is_finite():
    error = not_finite_error("x", _outcome(float("nan"), 2), [], offending=["a", "b"], batch_size=2)
    assert "the weights are broken" in str(error)
    assert "explain" not in str(error)


def test_message_of_many_samples_is_cut_and_says_how_many_more():
    uids = [f"{number:032x}" for number in range(20)]
    error = not_finite_error("x", _outcome(float("nan"), 32), [], offending=uids, batch_size=32)
    assert uids[7] in str(error)
    assert uids[8] not in str(error)
    assert "and 12 more" in str(error)


def test_divergence_tells_losses_and_what_guessing_gives():
    error = diverged_error("x, step 9", [40.0, 50.0], 3.4657)
    assert "3.47" in str(error)
    assert "40, 50" in str(error)


def test_broken_weights_are_named():
    assert "visual.proj" in str(broken_weights_error("x", ["visual.proj", "b"], [1.0]))
