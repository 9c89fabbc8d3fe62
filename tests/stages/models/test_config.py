import pytest
from pydantic import ValidationError

from stages.models.architecture import architecture_names, named_architecture
from stages.models.config import ModelConfig
from tests.stages.models.tiny import TINY


def _inline(**changes):
    body = {"embed_dim": 16, "vision_cfg": {"image_size": 16, "patch_size": 8}, "text_cfg": {"context_length": 12}}
    return ModelConfig(**{**body, **changes})


def test_inline_model_tells_its_sizes():
    assert (TINY.image_size, TINY.context_length, TINY.num_tokens) == (16, 12, 5)


def test_inline_model_without_sizes_has_open_clips_defaults():
    config = ModelConfig(embed_dim=8, vision_cfg={}, text_cfg={})
    assert (config.image_size, config.context_length, config.num_tokens) == (224, 77, 197)


@pytest.mark.parametrize(
    ("name", "tokens"), [("ViT-B-32", 50), ("ViT-L-14-336", 577), ("RN50", 50), ("ViT-B-16-SigLIP", None)]
)
def test_named_model_counts_image_tokens(name, tokens):
    assert ModelConfig(name=name).num_tokens == tokens


def test_image_size_as_a_pair_counts_as_its_side():
    assert _inline(vision_cfg={"image_size": [32, 32], "patch_size": 8}).image_size == 32


def test_architecture_leaves_defaults_out_and_keeps_the_rest():
    config = _inline(quick_gelu=True)
    assert config.architecture == {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8},
        "text_cfg": {"context_length": 12},
        "quick_gelu": True,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_cfg": {"layer": 2}}, "vision_cfg has no key 'layer'; nearest: layers"),
        ({"text_cfg": {"contxt_length": 2}}, "nearest: context_length"),
        ({"text_cfg": {"vocab_size": 1000}}, "vocab_size must be at least 49408"),
        ({"vision_cfg": {"image_size": [32, 16]}}, "must be square"),
        ({"vision_cfg": {"width": 32}}, "no equal attention heads"),
        ({"vision_cfg": {"image_size": -3}}, r"vision_cfg\.image_size must be a whole number above 0, found -3"),
        ({"vision_cfg": {"image_size": 16, "patch_size": 0}}, r"patch_size must be a whole number above 0"),
        ({"vision_cfg": {"image_size": 16, "patch_size": 32}}, r"patch_size \(32\) is larger than image_size \(16\)"),
        ({"vision_cfg": {"width": "wide"}}, r"vision_cfg\.width must be a whole number above 0, found 'wide'"),
        ({"vision_cfg": {"layers": [2, 0]}}, r"vision_cfg\.layers must be"),
        ({"text_cfg": {"layers": True}}, r"text_cfg\.layers must be"),
        ({"text_cfg": {"context_length": 0}}, r"context_length must be"),
        ({"text_cfg": {"width": 30, "heads": 4}}, r"text_cfg\.width \(30\) must be a multiple of heads \(4\)"),
        ({"embed_dim": 0}, r"embed_dim must be a whole number above 0"),
        ({"name": "ViT-B-32"}, "not both"),
        ({"embed_dim": None}, "missing: \\['embed_dim'\\]"),
        ({"layers": 3}, "Extra inputs"),
        ({"embed_dim": "16"}, "valid integer"),
    ],
)
def test_wrong_inline_model_is_refused_with_the_reason(changes, message):
    with pytest.raises(ValidationError, match=message):
        _inline(**changes)


@pytest.mark.parametrize(
    "option", ["trust_remote_code", "code_revision", "cache_dir", "tokenizer_file", "bpe_path", "token", "auto_map"]
)
@pytest.mark.parametrize("value", [True, False, "x"])
def test_tokenizer_option_that_could_run_code_or_reach_files_is_refused_and_those_allowed_are_named(option, value):
    with pytest.raises(
        ValidationError, match=rf"tokenizer_kwargs may not have '{option}'.*allowed: .*clean"
    ) as refused:
        _inline(text_cfg={"hf_tokenizer_name": "someone/theirs", "tokenizer_kwargs": {option: value}})
    assert "runs no code of others" in str(refused.value)


def test_tokenizer_options_that_are_no_mapping_are_refused():
    with pytest.raises(ValidationError, match="tokenizer_kwargs must be a mapping, found 'trust_remote_code'"):
        _inline(text_cfg={"tokenizer_kwargs": "trust_remote_code"})


@pytest.mark.parametrize("name", [name for name in architecture_names() if "coca" not in name.lower()])
def test_architectures_of_open_clip_written_out_keep_their_tokenizer_options(name):
    options = (named_architecture(name)["text_cfg"].get("tokenizer_kwargs")) or {}
    config = _inline(text_cfg={"hf_tokenizer_name": "x", "tokenizer_kwargs": options})
    assert config.architecture["text_cfg"]["tokenizer_kwargs"] == options


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValidationError, match=r"'VIT-B-33'; nearest: ViT-B-32|ViT-B-33"):
        ModelConfig(name="ViT-B-33")


def test_generative_model_is_refused():
    with pytest.raises(ValidationError, match="two-tower"):
        ModelConfig(name="coca_ViT-B-32")


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-S-32-alt"])
def test_number_of_parameters_is_foretold_within_a_percent(name: str) -> None:
    published = {"ViT-B-32": 151.28e6, "ViT-B-16": 149.62e6, "ViT-L-14": 427.62e6, "ViT-S-32-alt": 43.22e6}
    assert ModelConfig(name=name).num_parameters == pytest.approx(published[name], rel=0.01)


def test_number_of_parameters_of_an_inline_model_is_near_the_true_one() -> None:
    from stages.models.build import build_model

    config = ModelConfig(
        embed_dim=32,
        vision_cfg={"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
        text_cfg={"context_length": 24, "layers": 1, "width": 32, "heads": 2},
    )
    true = sum(parameter.numel() for parameter in build_model(config, 0).parameters())
    assert config.num_parameters == pytest.approx(true, rel=0.02)


def test_number_of_parameters_of_another_kind_of_tower_is_unknown() -> None:
    assert ModelConfig(name="RN50").num_parameters is None
