"""Every parameter behind the last attention by the fast path, any other by the slow one."""

import pytest
import torch
from torch import nn

from stages.train.direction import WeightDifference
from stages.train.mimic_names import tail_names
from stages.train.step import Step
from stages.train.tail import GeneralTangent, TailTangent
from stages.train.task import ContrastiveTask, Encoders, Tangent
from stages.train.weighting import Uniform
from tests.stages.train.tiny import difference, model_config, slow_scores, tiny_batch, tiny_clip


def disturbed(model: nn.Module, seed: int = 5) -> nn.Module:
    """A reference that differs in every parameter, norms and zero biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def check(student: nn.Module, tangents: dict[str, Tangent], names: list[str]) -> None:
    reference = disturbed(tiny_clip(1), seed=6)
    batch = tiny_batch(6)
    targets = {name: dict(reference.named_parameters())[name].detach() for name in names}
    step = Step(
        Encoders(student),
        ContrastiveTask(tangents),
        Uniform(),
        direction=WeightDifference(targets),
        mimicked=tuple(names),
    )
    expected = slow_scores(student, difference(student, reference, names), batch).detach().numpy()
    found = step.score(batch).scores
    assert found is not None
    assert abs(expected).max() > 1e-12
    assert abs(found - expected).max() <= 1e-9 * abs(expected).max()


IMAGE, TEXT = (tail_names(model_config(), tower) for tower in ("image", "text"))


@pytest.mark.parametrize("name", IMAGE)
def test_tail_each_image_parameter_equals_brute_force(name: str) -> None:
    student = disturbed(tiny_clip(0))
    check(student, {"image": TailTangent(student, "image")}, [name])


@pytest.mark.parametrize("name", TEXT)
def test_tail_each_text_parameter_equals_brute_force(name: str) -> None:
    student = disturbed(tiny_clip(0))
    check(student, {"text": TailTangent(student, "text")}, [name])


def test_tail_parameters_are_those_named_without_torch() -> None:
    student = tiny_clip(0)
    assert set(TailTangent(student, "image").parameters) == set(IMAGE)
    assert set(TailTangent(student, "text").parameters) == set(TEXT)


def test_tail_whole_tail_of_both_towers_equals_brute_force() -> None:
    student = tiny_clip(0)
    towers: dict[str, Tangent] = {"image": TailTangent(student, "image"), "text": TailTangent(student, "text")}
    check(student, towers, sorted(IMAGE + TEXT))


@pytest.mark.parametrize(
    "name",
    [
        "visual.conv1.weight",
        "visual.class_embedding",
        "visual.transformer.resblocks.1.attn.in_proj_weight",
        "visual.transformer.resblocks.0.mlp.c_proj.weight",
    ],
)
def test_general_image_parameter_equals_brute_force(name: str) -> None:
    student = tiny_clip(0)
    check(student, {"image": GeneralTangent(student, "image")}, [name])


@pytest.mark.parametrize("name", ["token_embedding.weight", "transformer.resblocks.0.attn.out_proj.weight"])
def test_general_text_parameter_equals_brute_force(name: str) -> None:
    student = tiny_clip(0)
    check(student, {"text": GeneralTangent(student, "text")}, [name])


@pytest.mark.parametrize("vision", [{"final_ln_after_pool": True, "pool_type": "avg"}, {"ls_init_value": 0.3}])
def test_tail_other_forms_of_tower_equal_brute_force(vision: dict[str, object]) -> None:
    student, reference = tiny_clip(0, **vision), tiny_clip(1, **vision)
    names = ["visual.transformer.resblocks.1.mlp.c_fc.weight", "visual.ln_post.weight"]
    batch = tiny_batch(6)
    targets = {name: disturbed_target(reference, name) for name in names}
    step = Step(
        Encoders(student),
        ContrastiveTask({"image": TailTangent(student, "image")}),
        Uniform(),
        direction=WeightDifference(targets),
        mimicked=tuple(names),
    )
    current = dict(student.named_parameters())
    direction = {name: targets[name] - current[name].detach() for name in names}
    expected = slow_scores(student, direction, batch).detach().numpy()
    found = step.score(batch).scores
    assert found is not None
    assert abs(found - expected).max() <= 1e-9 * abs(expected).max()


def disturbed_target(model: nn.Module, name: str) -> torch.Tensor:
    return dict(model.named_parameters())[name].detach() * 1.3


def test_tail_residual_network_has_none() -> None:
    import open_clip

    with torch.random.fork_rng():
        model = open_clip.CLIP(
            embed_dim=16,
            vision_cfg={"layers": (1, 1, 1, 1), "width": 8, "image_size": 32},
            text_cfg={"width": 16, "heads": 2, "layers": 1, "vocab_size": 40, "context_length": 8},
        )
    with pytest.raises(LookupError, match="no plain transformer"):
        TailTangent(model, "image")
