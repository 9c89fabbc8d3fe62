"""Weights that come over the network: open_clip's downloads, replaced by files."""

import open_clip
import pytest
import torch

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.models.build import build_model
from stages.models.config import ModelConfig
from stages.models.weights import check_shapes, read_pretrained, save_state, weights_file
from tests.stages.models.tiny import TINY

CUSTOM = ModelConfig(**{**TINY.model_dump(exclude_defaults=True), "custom_text": True})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "downloaded.safetensors"
    path.write_bytes(save_state(build_model(TINY, seed=1).state_dict()))
    return path


def _equal(state, model):
    return all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_model_on_the_hub_is_asked_for_by_its_name_without_the_prefix(file, monkeypatch):
    asked = []
    monkeypatch.setattr(
        open_clip.pretrained, "download_pretrained_from_hf", lambda name: asked.append(name) or str(file)
    )
    state = read_pretrained("hf-hub:someone/some-model", TINY, Storage())
    assert asked == ["someone/some-model"]
    assert _equal(state, build_model(TINY, seed=1))


def test_tag_is_looked_up_for_the_architecture(file, monkeypatch):
    asked = []
    monkeypatch.setattr(open_clip, "download_pretrained", lambda found: asked.append(found) or str(file))
    read_pretrained("datacomp_xl_s13b_b90k", ModelConfig(name="ViT-B-32"), Storage())
    assert asked == [open_clip.get_pretrained_cfg("ViT-B-32", "datacomp_xl_s13b_b90k")]


@pytest.mark.parametrize("error", [FileNotFoundError("offline"), OSError("refused"), RuntimeError("checksum")])
def test_failed_download_is_a_user_error_that_says_what_to_do(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_hf", fail)
    with pytest.raises(UserError, match="give the path of the file") as caught:
        read_pretrained("hf-hub:someone/some-model", TINY, Storage())
    assert caught.value.parts["where"] == "hf-hub:someone/some-model"
    assert caught.value.parts["found"] == str(error)


def test_downloaded_junk_is_a_user_error(tmp_path, monkeypatch):
    (tmp_path / "junk.bin").write_bytes(b"<html>not found</html>")
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_hf", lambda name: str(tmp_path / "junk.bin"))
    with pytest.raises(UserError, match="cannot be read"):
        read_pretrained("hf-hub:someone/some-model", TINY, Storage())


@pytest.mark.parametrize("source", ["openai", "laion2b_s34b_b79k", "hf-hub:someone/some-model"])
def test_tags_and_hub_names_are_no_files(source):
    assert weights_file(source, Storage()) is None


def test_path_is_a_file_whatever_its_ending(tmp_path):
    odd = tmp_path / "epoch_5"
    odd.write_bytes(save_state(build_model(TINY, seed=1).state_dict()))
    assert weights_file(str(odd), Storage()) == str(odd)
    assert _equal(read_pretrained(str(odd), TINY, Storage()), build_model(TINY, seed=1))


def test_weights_of_the_plain_layout_fit_a_custom_text_model(file):
    model = build_model(CUSTOM, seed=2)
    state = read_pretrained(str(file), CUSTOM, Storage())
    check_shapes(state, model)
    assert torch.equal(state["text.positional_embedding"], build_model(TINY, seed=1).positional_embedding)


def test_logit_scale_becomes_a_vector_where_the_model_has_one(file):
    config = ModelConfig(**{**TINY.model_dump(exclude_defaults=True), "nonscalar_logit_scale": True})
    check_shapes(read_pretrained(str(file), config, Storage()), build_model(config, seed=0))


def test_weights_of_another_architecture_are_refused_with_both_shapes(file):
    body = TINY.model_dump(exclude_defaults=True)
    other = ModelConfig(**{**body, "embed_dim": 8})
    with pytest.raises(UserError, match=r"visual.proj \[32, 8\]") as caught:
        check_shapes(read_pretrained(str(file), other, Storage()), build_model(other, seed=0), where=str(file))
    assert "visual.proj [32, 16]" in caught.value.parts["found"]


def test_many_wrong_parameters_are_counted_not_listed():
    body = TINY.model_dump(exclude_defaults=True)
    wider = ModelConfig(**{**body, "vision_cfg": {**body["vision_cfg"], "width": 64}})
    with pytest.raises(UserError, match=r"and \d+ more parameters"):
        check_shapes(build_model(TINY, seed=0).state_dict(), build_model(wider, seed=0))
