from typing import Any

import open_clip
import pytest

from pipeline.errors import UserError
from stages.models.build import build_model
from stages.models.config import ModelConfig
from stages.train.config import MimicConfig
from stages.train.mimic import resolve_names, tangents_for
from stages.train.mimic_names import mimicked_names, slow_names, tail_names, tower_of
from stages.train.tail import GeneralTangent, TailTangent
from tests.stages.train.tiny import model_config, tiny_clip

B32 = ModelConfig(name="ViT-B-32")


def test_default_is_the_last_mlp_of_the_image_tower() -> None:
    assert mimicked_names(B32, MimicConfig()) == ["visual.transformer.resblocks.11.mlp.c_proj.weight"]


def test_both_towers_have_their_own_depth() -> None:
    names = mimicked_names(ModelConfig(name="ViT-S-32-alt"), MimicConfig(tower="both"))
    assert names == [
        "transformer.resblocks.9.mlp.c_proj.weight",
        "visual.transformer.resblocks.11.mlp.c_proj.weight",
    ]


def test_text_tower_of_its_own_module_is_found_by_the_plain_name() -> None:
    custom = model_config(custom_text=True)
    plain = "transformer.resblocks.1.mlp.c_proj.weight"
    assert mimicked_names(custom, MimicConfig(tower="text")) == ["text." + plain]
    assert mimicked_names(custom, MimicConfig(parameters=[plain])) == ["text." + plain]


@pytest.mark.parametrize("custom_text", [False, True])
def test_tail_names_are_parameters_of_the_model(custom_text: bool) -> None:
    config = model_config(custom_text=custom_text)
    known = {name for name, _ in build_model(config, 0).named_parameters()}
    assert set(tail_names(config, "image")) | set(tail_names(config, "text")) <= known


@pytest.mark.parametrize("text", [{"proj_bias": True}, {"proj_type": "none", "width": 16}])
def test_tail_names_follow_the_projection(text: dict[str, Any]) -> None:
    base = model_config(custom_text=True)
    assert base.text_cfg is not None
    config = base.model_copy(update={"text_cfg": {**base.text_cfg, **text}})
    known = {name for name, _ in build_model(config, 0).named_parameters()}
    assert set(tail_names(config, "text")) <= known


def test_tower_of_names() -> None:
    assert tower_of("visual.proj") == "image"
    assert tower_of("text_projection") == "text"
    assert tower_of("logit_scale") is None


def test_residual_network_has_no_default_but_lists_nothing_fast() -> None:
    with pytest.raises(UserError, match="default of the image tower"):
        resolve_names(ModelConfig(name="RN50"), MimicConfig())


def test_parameter_before_the_last_attention_is_slow() -> None:
    names = ("visual.transformer.resblocks.0.mlp.c_proj.weight", "visual.proj")
    assert resolve_names(model_config(), MimicConfig(parameters=list(names))) == tuple(sorted(names))
    assert slow_names(model_config(), names) == [names[0]]


def test_one_slow_parameter_makes_its_tower_slow_and_leaves_the_other_fast() -> None:
    model = tiny_clip(0)
    found = tangents_for(model, ("visual.conv1.weight", "visual.proj", "text_projection"))
    assert isinstance(found["image"], GeneralTangent)
    assert isinstance(found["text"], TailTangent)


def test_named_models_have_their_default() -> None:
    for name in ("ViT-B-16", "ViT-L-14", "ViT-H-14"):
        config = ModelConfig(name=name)
        layers = open_clip.get_model_config(name)["vision_cfg"]["layers"]
        assert mimicked_names(config, MimicConfig()) == [f"visual.transformer.resblocks.{layers - 1}.mlp.c_proj.weight"]
