import random

import numpy as np
import pytest
import torch
from snorkel.labeling.model import LabelModel

from stages.kernels.label_model import FitSettings, FittedLabelModel, fit_label_model
from stages.kernels.patterns import count_votes, pack


def votes_on_truth(n, accuracies, *, abstain=0.2, share=0.35, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < share
    right = rng.random((n, len(accuracies))) < np.asarray(accuracies)
    votes = np.where(right, truth[:, None], ~truth[:, None]).astype(np.int8)
    votes[rng.random(votes.shape) < abstain] = -1
    return truth, votes


def counted(votes):
    patterns, counts = np.unique(pack(list(votes.T)), return_counts=True)
    return count_votes(patterns, counts, votes.shape[1])


def stock(votes, prior, settings):
    model = LabelModel(verbose=False)
    model.fit(
        votes.astype(np.int64),
        class_balance=[1 - prior, prior],
        n_epochs=settings.steps,
        lr=settings.learning_rate,
        l2=settings.l2,
        prec_init=settings.initial_precision,
        optimizer="adam",
        seed=settings.seed,
        progress_bar=False,
    )
    return model


@pytest.mark.parametrize("settings", [FitSettings(steps=200), FitSettings(100, 0.02, 0.01, 0.8, 11)])
@pytest.mark.parametrize(
    ("n", "accuracies", "abstain"),
    [(3000, (0.9, 0.6, 0.75), 0.3), (101, (0.8,) * 5, 0.0), (5000, np.linspace(0.4, 0.95, 12), 0.5)],
)
def test_fit_parameters_and_probabilities_equal_stock_snorkel(settings, n, accuracies, abstain):
    _, votes = votes_on_truth(n, accuracies, abstain=abstain)
    fitted = fit_label_model(counted(votes), 0.35, settings)
    model = stock(votes, 0.35, settings)
    assert np.array_equal(fitted.conditional, model.mu.detach().numpy().astype(np.float64))
    assert fitted.p_keep(pack(list(votes.T))) == pytest.approx(model.predict_proba(votes.astype(int))[:, 1], abs=2e-6)
    assert fitted.accuracy == pytest.approx(model.get_weights(), abs=1e-12)


def test_fit_recovers_the_conditionals_of_independent_voters():
    truth, votes = votes_on_truth(200_000, (0.9, 0.7, 0.6, 0.8))
    fitted = fit_label_model(counted(votes), 0.35, FitSettings())
    wanted = [[(votes[truth == c, j] == y).mean() for c in (0, 1)] for j in range(4) for y in (0, 1)]
    assert fitted.conditional == pytest.approx(np.asarray(wanted), abs=0.01)
    assert fitted.final_loss < 1e-4


def test_fit_more_steps_hardly_move_what_the_default_found():
    _, votes = votes_on_truth(20_000, (0.85, 0.7, 0.65, 0.75, 0.6))
    short, long = (fit_label_model(counted(votes), 0.35, FitSettings(steps=steps)) for steps in (1000, 3000))
    assert short.conditional == pytest.approx(long.conditional, abs=1e-3)


def test_fit_leaves_the_global_random_state_alone():
    _, votes = votes_on_truth(100, (0.9, 0.7, 0.6))
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global state is the point
    torch.manual_seed(5)
    wanted = random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global state is the point
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    fit_label_model(counted(votes), 0.4, FitSettings(steps=5, seed=99))
    assert (random.random(), np.random.random(), torch.rand(1).item()) == wanted  # noqa: NPY002
    assert torch.get_num_threads() == threads


def test_fit_two_voters_are_too_few():
    _, votes = votes_on_truth(100, (0.9, 0.7))
    with pytest.raises(ValueError, match="at least 3"):
        fit_label_model(counted(votes), 0.4, FitSettings())


def test_p_keep_equals_bayes_by_hand_and_all_abstain_is_the_prior():
    conditional = np.asarray([[0.8, 0.3], [0.2, 0.7], [0.5, 0.1], [0.25, 0.6], [0.9, 0.2], [0.1, 0.8]])
    fitted = FittedLabelModel(0.3, conditional, np.ones(3), 0.0)
    votes = np.asarray([[-1, -1, -1], [1, -1, 0], [1, 1, 1]], np.int8)
    likely = [0.3 * 0.7 * 0.2, 0.7 * 0.2 * 0.9], [0.3 * 0.7 * 0.6 * 0.8, 0.7 * 0.2 * 0.25 * 0.1]
    wanted = [0.3, *(keep / (keep + drop) for keep, drop in likely)]
    assert fitted.p_keep(pack(list(votes.T))) == pytest.approx(wanted, abs=1e-12)


def test_p_keep_of_forty_floored_votes_does_not_underflow():
    conditional = np.tile([[1e-9, 1 - 1e-9], [1 - 1e-9, 1e-9]], (40, 1))
    fitted = FittedLabelModel(0.5, conditional, np.ones(40), 0.0)
    half = np.asarray([1] * 20 + [0] * 20, np.int8)[None]
    assert fitted.p_keep(pack(list(half.T))) == pytest.approx([0.5])
    assert fitted.p_keep(pack([np.ones(1, np.int8)] * 40)).tolist() == [0.0]
