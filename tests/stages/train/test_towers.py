"""Other forms of the model: poolings, projections, a bias of the logits; scores and gradients against brute force."""

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn

from stages.train.direction import WeightDifference
from stages.train.mimic import tangents_for
from stages.train.step import Step
from stages.train.tail import GeneralTangent, TailTangent
from stages.train.task import ContrastiveTask, Encoders
from stages.train.weighting import SoftmaxWeighting
from tests.stages.train.tiny import gradients_of, model_config, slow_gradients, slow_scores, tiny_batch


def clip_of(
    seed: int, *, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **model: Any
) -> nn.Module:
    """A model of 40 tokens in another form than the usual one, all parameters at random."""
    custom_text = model.pop("custom_text", False)
    config: dict[str, Any] = {**model_config().architecture, **model}
    config["vision_cfg"] = {**config["vision_cfg"], **(vision or {})}
    config["text_cfg"] = {**config["text_cfg"], "vocab_size": 40, "eos_id": 39, **(text or {})}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
        made: nn.Module = kind(**config).double().eval()
        with torch.no_grad():
            for parameter in made.parameters():  # what starts at zero or one would hide an error
                parameter += 0.05 * torch.randn_like(parameter)
    return made


def composed(student: nn.Module, targets: dict[str, Tensor], **changes: Any) -> Step:
    names = tuple(sorted(targets))
    return Step(
        Encoders(student),
        ContrastiveTask(tangents_for(student, names)),
        SoftmaxWeighting(0.05),
        direction=WeightDifference(targets),
        mimicked=names,
        **changes,
    )


def targets_in(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().clone() for name in names}


def assert_scores_are_brute_force(student: nn.Module, reference: nn.Module, names: list[str]) -> None:
    batch = tiny_batch(8, fillers=1)
    targets = targets_in(reference, names)
    current = dict(student.named_parameters())
    direction = {name: targets[name] - current[name].detach() for name in sorted(targets)}
    expected = slow_scores(student, direction, batch).detach().numpy()
    found = composed(student, targets).score(batch).scores
    assert found is not None
    assert abs(expected).max() > 1e-9
    assert abs(found - expected).max() <= 1e-9 * abs(expected).max()


TEXT_MLP = "transformer.resblocks.1.mlp.c_fc.weight"
IMAGE_MLP = "visual.transformer.resblocks.1.mlp.c_fc.bias"


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("pool", ["first", "last", "argmax", "eos"])
def test_text_pooling_scores_equal_brute_force_on_the_fast_path(pool: str, custom_text: bool) -> None:
    text = {"pool_type": pool, "no_causal_mask": pool == "first"}  # the first token sees others only without the mask
    student, reference = (clip_of(seed, text=text, custom_text=custom_text) for seed in (0, 1))
    prefix = "text." if custom_text else ""
    assert isinstance(tangents_for(student, (prefix + TEXT_MLP,))["text"], TailTangent)
    assert_scores_are_brute_force(student, reference, [prefix + TEXT_MLP, prefix + "ln_final.weight"])


def test_text_tower_with_a_class_token_scores_equal_brute_force() -> None:
    student, reference = (clip_of(seed, text={"embed_cls": True}, custom_text=True) for seed in (0, 1))
    assert_scores_are_brute_force(student, reference, ["text." + TEXT_MLP, "text.text_projection"])


@pytest.mark.parametrize("text", [{"proj_bias": True}, {"proj_type": "none"}], ids=["bias", "no projection"])
def test_text_projections_scores_equal_brute_force(text: dict[str, Any]) -> None:
    student, reference = (clip_of(seed, text=text, custom_text=True) for seed in (0, 1))
    names = ["text." + TEXT_MLP]
    if "proj_bias" in text:
        names += ["text.text_projection.weight", "text.text_projection.bias"]
    assert_scores_are_brute_force(student, reference, names)


@pytest.mark.parametrize(
    "vision",
    [{"no_ln_pre": True}, {"pool_type": "avg"}, {"pool_type": "tok", "final_ln_after_pool": True}],
    ids=["no first norm", "average", "norm after pooling"],
)
def test_image_forms_scores_equal_brute_force_on_the_fast_path(vision: dict[str, Any]) -> None:
    student, reference = (clip_of(seed, vision=vision) for seed in (0, 1))
    assert isinstance(tangents_for(student, (IMAGE_MLP,))["image"], TailTangent)
    assert_scores_are_brute_force(student, reference, [IMAGE_MLP, "visual.ln_post.bias", "visual.proj"])


def test_image_tower_that_pools_by_attention_falls_back_to_the_general_path() -> None:
    vision = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}
    student, reference = (clip_of(seed, vision=vision) for seed in (0, 1))
    with pytest.raises(LookupError, match="pools by attention"):
        TailTangent(student, "image")
    assert isinstance(tangents_for(student, (IMAGE_MLP,))["image"], GeneralTangent)
    assert_scores_are_brute_force(student, reference, [IMAGE_MLP])


def test_quick_gelu_scores_equal_brute_force() -> None:
    student, reference = (clip_of(seed, quick_gelu=True) for seed in (0, 1))
    assert_scores_are_brute_force(student, reference, [IMAGE_MLP, TEXT_MLP])


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    "model",
    [{"init_logit_bias": -3.0}, {"nonscalar_logit_scale": True}, {"init_logit_scale": 0.5, "init_logit_bias": 1.0}],
    ids=["bias", "vector scale", "both set"],
)
def test_parameters_of_the_loss_have_the_gradient_of_the_weighted_sum(model: dict[str, Any], accumulation: int) -> None:
    student, reference = clip_of(0, **model), clip_of(1, **model)
    batch = tiny_batch(8, fillers=2)
    outcome = composed(student, targets_in(reference, [IMAGE_MLP]), accumulation=accumulation).train(batch, 0)
    expected = slow_gradients(student, batch, torch.from_numpy(outcome.weights))
    found = gradients_of(student)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-12)  # the bias shifts all logits alike: its gradient is zero
        assert float((found[name] - gradient).abs().max()) <= 1e-9 * scale + 1e-15, name
    assert float(found["logit_scale"].abs().max()) > 0


def test_one_step_of_both_towers_is_their_directions_concatenated() -> None:
    """||v|| spans both: the joint score is the sum of both towers' slopes over the common length."""
    student, reference = clip_of(0), clip_of(1)
    batch = tiny_batch(8)
    image, text, both = (
        composed(student, targets_in(reference, names)).score(batch)
        for names in ([IMAGE_MLP], [TEXT_MLP], [IMAGE_MLP, TEXT_MLP])
    )
    lengths = [outcome.direction_norm for outcome in (image, text, both)]
    assert lengths[2] == pytest.approx(np.hypot(lengths[0], lengths[1]), rel=1e-12)
    slopes = [outcome.scores * length for outcome, length in zip((image, text, both), lengths, strict=True)]
    np.testing.assert_allclose(slopes[2], slopes[0] + slopes[1], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_scores_do_not_depend_on_the_length_of_the_direction(factor: float) -> None:
    """m = <-g, v> / ||v||: a reference twice as far in the same direction gives the same scores."""
    student, reference = clip_of(0), clip_of(1)
    batch = tiny_batch(6)
    near = targets_in(reference, [IMAGE_MLP])
    own = targets_in(student, [IMAGE_MLP])
    far = {name: own[name] + factor * (near[name] - own[name]) for name in near}
    one, other = composed(student, near).score(batch), composed(student, far).score(batch)
    np.testing.assert_allclose(other.scores, one.scores, rtol=1e-9)
    assert other.direction_norm == pytest.approx(factor * one.direction_norm, rel=1e-9)


def test_opposite_direction_gives_opposite_scores() -> None:
    student, reference = clip_of(0), clip_of(1)
    batch = tiny_batch(6)
    there, own = targets_in(reference, [TEXT_MLP]), targets_in(student, [TEXT_MLP])
    back = {name: 2 * own[name] - there[name] for name in there}
    np.testing.assert_allclose(
        composed(student, back).score(batch).scores, -composed(student, there).score(batch).scores, rtol=1e-9
    )


def test_order_within_the_batch_moves_scores_along() -> None:
    student, reference = clip_of(0), clip_of(1)
    batch = tiny_batch(8)
    shuffle = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    moved = type(batch)(batch.images[shuffle], batch.tokens[shuffle], batch.scored[shuffle])
    step = composed(student, targets_in(reference, [IMAGE_MLP]))
    straight = step.score(batch).scores
    assert straight is not None
    np.testing.assert_allclose(step.score(moved).scores, straight[shuffle.numpy()], rtol=1e-9)


def test_scoring_leaves_weights_and_gradients_alone_and_equals_what_training_sees() -> None:
    student, reference = clip_of(0), clip_of(1)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    step = composed(student, targets_in(reference, [IMAGE_MLP, TEXT_MLP]), accumulation=2)
    first, second = step.score(tiny_batch(8)), step.score(tiny_batch(8))
    assert gradients_of(student) == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    np.testing.assert_array_equal(first.scores, second.scores)
    trained = composed(student, targets_in(reference, [IMAGE_MLP, TEXT_MLP]), accumulation=2).train(tiny_batch(8), 0)
    np.testing.assert_array_equal(trained.scores, first.scores)
    np.testing.assert_array_equal(trained.losses, first.losses)
