import sys
from types import SimpleNamespace

import open_clip
import pytest
import torch

from pipeline.errors import UserError
from stages.models.build import build_model, build_tokenizer
from stages.models.config import ModelConfig
from tests.stages.models.tiny import TINY


def _flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_same_seed_gives_the_same_weights_whatever_the_global_state():
    torch.manual_seed(1)
    first = _flat(build_model(TINY, seed=7))
    torch.manual_seed(2)
    assert torch.equal(first, _flat(build_model(TINY, seed=7)))


def test_other_seed_gives_other_weights():
    assert not torch.equal(_flat(build_model(TINY, seed=7)), _flat(build_model(TINY, seed=8)))


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_model(TINY, seed=0)
    assert torch.equal(torch.rand(4), expected)


def test_weights_equal_open_clips_own_for_that_seed():
    torch.manual_seed(5)
    own = open_clip.CLIP(**TINY.architecture)
    assert torch.equal(_flat(build_model(TINY, seed=5)), _flat(own))


def test_custom_text_builds_the_other_class():
    config = ModelConfig(**{**TINY.model_dump(exclude_defaults=True), "custom_text": True})
    model = build_model(config, seed=0)
    assert isinstance(model, open_clip.CustomTextCLIP)
    assert "text.transformer.resblocks.0.mlp.c_proj.weight" in model.state_dict()


def test_words_that_open_clip_does_not_know_are_a_user_error():
    body = TINY.model_dump(exclude_defaults=True)
    with pytest.raises(UserError, match="cannot build"):
        build_model(ModelConfig(**{**body, "vision_cfg": {**body["vision_cfg"], "pos_embed_type": "round"}}), seed=0)


def test_tokenizer_has_the_models_context_and_ends_what_it_cuts():
    tokens = build_tokenizer(TINY)(["a red seven", "seven " * 50])
    assert tokens.shape == (2, 12)
    assert tokens.dtype == torch.int64
    assert tokens[0].tolist()[:1] == [49406]
    assert tokens[0].count_nonzero() == 5
    assert tokens[1, -1] == 49407


def test_tokenizer_equals_open_clips_for_a_named_model():
    texts = ["A <b>photo</b> of 7", "déjà vu &amp; more"]
    assert torch.equal(build_tokenizer(ModelConfig(name="ViT-B-32"))(texts), open_clip.get_tokenizer("ViT-B-32")(texts))


def test_tokenizer_of_others_is_loaded_with_their_code_refused(monkeypatch):
    """transformers is no dependency: what it would be asked is written down in its place."""
    asked = {}

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(name, **options):
            asked.update(name=name, **options)

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=AutoTokenizer))
    text = {
        **TINY.architecture["text_cfg"],
        "hf_tokenizer_name": "their/own",
        "tokenizer_kwargs": {"revision": "1"},
    }
    build_tokenizer(ModelConfig(**{**TINY.model_dump(exclude_defaults=True), "text_cfg": text}))
    assert asked == {"name": "their/own", "cache_dir": None, "revision": "1", "trust_remote_code": False}
