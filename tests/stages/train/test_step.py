"""Scores and gradients against brute force, in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.errors import UserError
from stages.train.config import EffectiveBatch, Reading, Tower
from stages.train.direction import WeightDifference
from stages.train.step import Precision, Step
from stages.train.tail import TailTangent
from stages.train.task import Batch, ContrastiveTask, Encoders
from stages.train.weighting import SoftmaxWeighting, Uniform, Weighting
from tests.stages.train.tiny import (
    difference,
    gradients_of,
    names_for,
    slow_gradients,
    slow_losses,
    slow_scores,
    tiny_batch,
    tiny_clip,
)


def step_for(
    student: nn.Module,
    reference: nn.Module,
    tower: Tower = "image",
    *,
    weighting: Weighting | None = None,
    accumulation: int = 1,
    reading: Reading = "own_loss",
    names: list[str] | None = None,
) -> Step:
    names = names or names_for(tower, text_prefix="text." if hasattr(student, "text") else "")
    towers = ("image", "text") if tower == "both" else (tower,)
    targets = {name: dict(reference.named_parameters())[name].detach() for name in names}
    return Step(
        Encoders(student),
        ContrastiveTask({t: TailTangent(student, t) for t in towers}),
        weighting or SoftmaxWeighting(0.05),
        direction=WeightDifference(targets),
        mimicked=tuple(names),
        accumulation=accumulation,
        reading=reading,
    )


def assert_close(found: Tensor, expected: Tensor) -> None:
    found, expected = found.detach(), expected.detach()
    assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max()) + 1e-300


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("tower", ["image", "text", "both"])
def test_scores_equal_brute_force(tower: Tower, pool: str, custom_text: bool) -> None:
    student, reference = (tiny_clip(seed, pool=pool, custom_text=custom_text) for seed in (0, 1))
    batch = tiny_batch(12, fillers=2)
    names = names_for(tower, text_prefix="text." if custom_text else "")
    expected = slow_scores(student, difference(student, reference, names), batch)
    found = step_for(student, reference, tower).score(batch)
    assert found.scores is not None
    assert_close(torch.from_numpy(found.scores), expected)
    assert_close(torch.from_numpy(found.losses), slow_losses(student, dict(student.named_parameters()), batch))


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("tower", ["image", "text", "both"])
def test_gradients_equal_explicit_weighted_sum(tower: Tower, accumulation: int) -> None:
    student, reference = tiny_clip(0), tiny_clip(1)
    batch = tiny_batch(12, fillers=1)
    outcome = step_for(student, reference, tower, accumulation=accumulation).train(batch, 0)
    expected = slow_gradients(student, batch, torch.from_numpy(outcome.weights))
    found = gradients_of(student)
    assert found.keys() == expected.keys()
    assert float(expected["logit_scale"].abs()) > 0
    for name in expected:
        assert_close(found[name], expected[name])


def test_accumulated_scores_equal_those_of_the_whole_batch() -> None:
    student, reference = tiny_clip(0), tiny_clip(1)
    batch = tiny_batch(12)
    whole = step_for(student, reference, "both").train(batch, 0)
    pieces = step_for(student, reference, "both", accumulation=4).train(batch, 0)
    assert whole.scores is not None
    assert pieces.scores is not None
    np.testing.assert_allclose(pieces.scores, whole.scores, rtol=0, atol=1e-9 * abs(whole.scores).max())
    np.testing.assert_allclose(pieces.weights, whole.weights, rtol=1e-9)


def test_infinite_temperature_equals_uniform() -> None:
    batch = tiny_batch(10, fillers=3)
    reference = tiny_clip(1)
    hot, even = tiny_clip(0), tiny_clip(0)
    scored = step_for(hot, reference, weighting=SoftmaxWeighting(1e30)).train(batch, 0)
    uniform = step_for(even, reference, weighting=Uniform()).train(batch, 0)
    np.testing.assert_array_equal(scored.scores, uniform.scores)
    np.testing.assert_allclose(scored.weights, uniform.weights, rtol=1e-12)
    for name, gradient in gradients_of(even).items():
        assert_close(gradients_of(hot)[name], gradient)


def test_fillers_are_negatives_without_weight_or_influence_on_weights() -> None:
    student, reference = tiny_clip(0), tiny_clip(1)
    outcome = step_for(student, reference, weighting=SoftmaxWeighting(EffectiveBatch(effective_batch=0.5))).score(
        tiny_batch(12, fillers=4)
    )
    assert not outcome.weights[8:].any()
    assert outcome.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert outcome.effective_share == pytest.approx(0.5, abs=1e-9)
    alone = step_for(student, reference).score(tiny_batch(8))
    assert abs(alone.losses - outcome.losses[:8]).max() > 1e-6, "fillers must count as negatives"


def slow_path_scores(model: nn.Module, direction: dict[str, Tensor], batch: Batch) -> Tensor:
    """<-g_i, v> / ||v||, g_i = n times the gradient of the mean loss through a copy of the weights for sample i."""
    number = int(batch.scored.sum())
    parameters = dict(model.named_parameters())
    copies = [
        {name: parameters[name].detach().clone().requires_grad_() for name in direction} for _ in range(len(batch))
    ]
    image, text = [], []
    for index, copy in enumerate(copies):
        one = Batch(*(tensor[index : index + 1] for tensor in (batch.images, batch.tokens, batch.scored)))
        named = {f"clip.{name}": tensor for name, tensor in copy.items()}
        features = functional_call(Encoders(model), named, (one.images, one.tokens))
        image.append(features[0])
        text.append(features[1])
    outputs = (torch.cat(image), torch.cat(text))
    task = ContrastiveTask()
    mean = task.losses(batch, outputs, outputs, task.scalars(model))[batch.scored].mean()
    length = torch.sqrt(sum((v**2).sum() for v in direction.values()))  # type: ignore[arg-type]
    flat = [tensor for copy in copies for tensor in copy.values()]
    gradients = torch.autograd.grad(mean, flat)
    steps = list(direction.values()) * len(batch)
    inner = torch.stack([(g * v).sum() for g, v in zip(gradients, steps, strict=True)]).view(len(batch), -1).sum(1)
    return -number * inner / length


@pytest.mark.parametrize("tower", ["image", "text", "both"])
def test_path_reading_equals_gradients_through_own_weights(tower: Tower) -> None:
    student, reference = tiny_clip(0), tiny_clip(1)
    batch = tiny_batch(8, fillers=2)
    expected = slow_path_scores(student, difference(student, reference, names_for(tower)), batch)
    found = step_for(student, reference, tower, reading="path").score(batch)
    assert found.scores is not None
    assert_close(torch.from_numpy(found.scores), expected)


def test_mean_score_is_the_derivative_of_the_mean_loss_in_both_readings() -> None:
    student, reference = tiny_clip(0), tiny_clip(1)
    batch = tiny_batch(8)
    own = step_for(student, reference).score(batch).scores
    path = step_for(student, reference, reading="path").score(batch).scores
    assert own is not None
    assert path is not None
    assert own.mean() == pytest.approx(path.mean(), rel=1e-9)
    assert abs(own - path).max() > 1e-3 * abs(own).max(), "the readings differ sample by sample"


def test_equal_weights_have_no_direction() -> None:
    with pytest.raises(UserError, match="length zero"):
        step_for(tiny_clip(0), tiny_clip(0)).score(tiny_batch(4))


def test_step_without_direction_records_losses_alone() -> None:
    student = tiny_clip(0)
    batch = tiny_batch(6)
    outcome = Step(Encoders(student), ContrastiveTask(), Uniform()).train(batch, 0)
    assert outcome.scores is None
    assert outcome.direction_norm is None
    assert outcome.loss == pytest.approx(
        float(slow_losses(student, dict(student.named_parameters()), batch).detach().mean())
    )


def test_dropped_patches_are_the_same_in_the_repeated_pieces() -> None:
    batch = tiny_batch(8)
    first, second = tiny_clip(0, patch_dropout=0.5), tiny_clip(0, patch_dropout=0.5)
    reference = tiny_clip(1)
    one = step_for(first, reference, accumulation=2).train(batch, 3)
    other = step_for(second, reference, accumulation=2).train(batch, 3)
    np.testing.assert_array_equal(one.losses, other.losses)
    later = step_for(tiny_clip(0, patch_dropout=0.5), reference, accumulation=2).train(batch, 4)
    assert abs(later.losses - one.losses).max() > 0, "each step drops others"
    for name, gradient in gradients_of(first).items():
        assert torch.equal(gradient, gradients_of(second)[name])


def test_bfloat16_forward_keeps_scores_in_full_precision() -> None:
    """Features are bfloat16's, the derivative is float32's: ranks of scores hardly move."""
    student, reference = tiny_clip(0).float(), tiny_clip(1).float()
    double = tiny_batch(64)
    batch = Batch(double.images.float(), double.tokens, double.scored)
    exact = step_for(student, reference, "both").score(batch)
    rough_step = step_for(student, reference, "both")
    rough_step._precision = Precision(autocast=True)
    rough = rough_step.train(batch, 0)
    assert exact.scores is not None
    assert rough.scores is not None
    assert not np.array_equal(exact.losses, rough.losses)
    ranks = [np.argsort(np.argsort(scores)) for scores in (exact.scores, rough.scores)]
    assert np.corrcoef(*ranks)[0, 1] > 0.98
    assert all(gradient.dtype == torch.float32 for gradient in gradients_of(student).values())
