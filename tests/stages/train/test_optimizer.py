import math

import pytest
import torch

from stages.models.config import ModelConfig
from stages.train.config import TrainConfig
from stages.train.optimizer import bound_logit_scale, build_optimizer, clip_gradients, decays, learning_rate
from tests.stages.train.tiny import tiny_clip


def config(**changes: object) -> TrainConfig:
    return TrainConfig(**{"model": ModelConfig(name="ViT-B-32"), "epochs": 1, **changes})  # type: ignore[arg-type]


def test_decay_spares_vectors_norms_biases_and_the_logit_scale() -> None:
    spared = {name for name, parameter in tiny_clip(0).named_parameters() if not decays(name, parameter)}
    assert {"logit_scale", "ln_final.weight", "visual.class_embedding", "visual.ln_post.bias"} <= spared
    assert "visual.transformer.resblocks.0.mlp.c_fc.bias" in spared
    assert "visual.transformer.resblocks.0.attn.in_proj_bias" in spared
    decayed = {name for name, _ in tiny_clip(0).named_parameters()} - spared
    assert {"visual.proj", "text_projection", "positional_embedding", "token_embedding.weight"} <= decayed
    assert "visual.conv1.weight" in decayed


def test_optimizer_holds_every_parameter_once_in_its_group() -> None:
    model = tiny_clip(0)
    spared, decayed = build_optimizer(model, config(weight_decay=0.3, beta2=0.95)).param_groups
    assert spared["weight_decay"] == 0.0
    assert decayed["weight_decay"] == 0.3
    assert decayed["betas"] == (0.9, 0.95)
    assert decayed["eps"] == 1e-6
    held = [*spared["params"], *decayed["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(list(model.parameters()))


def test_learning_rate_rises_then_follows_a_cosine_to_zero() -> None:
    settings = config(learning_rate=1.0, warmup=10)
    rates = [learning_rate(step, 110, settings) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[35] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert rates[110] == pytest.approx(0.0, abs=1e-15)


def test_learning_rate_without_warmup_starts_at_the_top() -> None:
    assert learning_rate(0, 10, config(learning_rate=0.3, warmup=0)) == 0.3


@pytest.mark.parametrize(("start", "expected"), [(9.0, math.log(100)), (-2.0, 0.0), (1.5, 1.5)])
def test_logit_scale_stays_within_its_bounds(start: float, expected: float) -> None:
    model = tiny_clip(0)
    with torch.no_grad():
        model.logit_scale.fill_(start)
    bound_logit_scale(model)
    assert float(model.logit_scale.detach()) == pytest.approx(expected)


def test_gradients_are_shrunk_together() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    clip_gradients([first, second], config())
    assert float(first.grad) == 3.0
    clip_gradients([first, second], config(grad_clip=1.0))
    assert float(first.grad) == pytest.approx(0.6, rel=1e-5)
    assert float(second.grad) == pytest.approx(0.8, rel=1e-5)
