import io

import open_clip
import pytest
import torch

from pipeline.artifact import Artifact, ArtifactWriter, Manifest
from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.models.build import build_model
from stages.models.config import ModelConfig
from stages.models.weights import (
    check_shapes,
    load_model,
    load_state,
    model_files,
    read_config,
    read_pretrained,
    save_state,
)
from tests.stages.models.tiny import TINY


def _torch_bytes(value):
    sink = io.BytesIO()
    torch.save(value, sink)
    return sink.getvalue()


def _same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def model():
    return build_model(TINY, seed=1)


def test_written_folder_loads_in_open_clip_with_equal_weights_and_size(model, tmp_path):
    for name, data in model_files(model, TINY).items():
        (tmp_path / name).write_bytes(data)
    loaded, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    assert _same(loaded.state_dict(), model.state_dict())
    assert loaded.visual.image_size == (16, 16)
    assert transform.transforms[0].size == 16
    assert open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a"]).shape == (1, 12)


def test_written_files_are_the_same_bytes_each_time(model):
    assert model_files(model, TINY) == model_files(model, TINY)


def test_load_model_gives_back_weights_and_config(model, tmp_path):
    writer = ArtifactWriter(str(tmp_path), Storage())
    files = [writer.put_bytes(f"model/{name}", data) for name, data in model_files(model, TINY).items()]
    artifact = Artifact(str(tmp_path), Manifest("training/t", "0" * 64, {}, tuple(files), {}), Storage())
    loaded, config = load_model(artifact)
    assert config == TINY
    assert _same(loaded.state_dict(), model.state_dict())
    assert not loaded.training


def test_config_of_a_named_model_keeps_its_name(model):
    named = ModelConfig(name="RN50")
    assert read_config(model_files(model, named)["open_clip_config.json"]) == named


def test_config_written_by_others_reads_as_inline():
    data = b'{"model_cfg": {"embed_dim": 4, "vision_cfg": {"image_size": 32}, "text_cfg": {}}, "preprocess_cfg": {}}'
    assert read_config(data) == ModelConfig(embed_dim=4, vision_cfg={"image_size": 32}, text_cfg={})


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}], ids=["plain", "training"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_checkpoint_is_unwrapped_and_stripped(model, wrap, prefix):
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    assert _same(load_state(_torch_bytes(wrap(state))), model.state_dict())


def test_safetensors_round_trip_is_exact(model):
    assert _same(load_state(save_state(model.state_dict())), model.state_dict())


class _Code:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize(
    "data",
    [b"", b"junk", b"\x05\0\0\0\0\0\0\0{}...", _torch_bytes({"a": _Code()}), _torch_bytes([1, 2]), _torch_bytes({})],
    ids=["empty", "junk", "bad safetensors", "code in a pickle", "no dict", "no tensors"],
)
def test_bytes_that_are_no_weights_are_a_user_error(data, capsys):
    with pytest.raises(UserError, match="weights"):
        load_state(data, "some/file.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ending", ["w.safetensors", "w.pt"])
def test_read_pretrained_reads_a_file(model, tmp_path, ending):
    state = model.state_dict()
    path = tmp_path / ending
    path.write_bytes(save_state(state) if ending.endswith("tensors") else _torch_bytes({"state_dict": state}))
    assert _same(read_pretrained(str(path), TINY, Storage()), state)


def test_read_pretrained_reads_a_folder_in_open_clips_layout(model, tmp_path):
    for name, data in model_files(model, TINY).items():
        (tmp_path / name).write_bytes(data)
    assert _same(read_pretrained(str(tmp_path), TINY, Storage()), model.state_dict())


def test_read_pretrained_goes_through_the_scope_of_storage(model, tmp_path):
    (tmp_path / "w.pt").write_bytes(_torch_bytes(model.state_dict()))
    with pytest.raises(Exception, match="did not declare"):
        read_pretrained(str(tmp_path / "w.pt"), TINY, Storage().limited(["/elsewhere"], []))


def test_read_pretrained_scalar_as_vector_is_reshaped(model, tmp_path):
    state = {**model.state_dict(), "logit_scale": torch.tensor([3.0])}
    (tmp_path / "w.safetensors").write_bytes(save_state(state))
    assert read_pretrained(str(tmp_path / "w.safetensors"), TINY, Storage())["logit_scale"].shape == ()


def test_read_pretrained_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no weights there"):
        read_pretrained(str(tmp_path / "none.pt"), TINY, Storage())


def test_read_pretrained_unknown_tag_names_the_known_ones():
    with pytest.raises(UserError, match="datacomp_xl_s13b_b90k"):
        read_pretrained("datacomp_xxl", ModelConfig(name="ViT-B-32"), Storage())


def test_read_pretrained_tag_for_an_inline_model_is_a_user_error():
    with pytest.raises(UserError, match="only named architectures"):
        read_pretrained("openai", TINY, Storage())


def test_shapes_that_fit_pass(model):
    check_shapes(model.state_dict(), model)


def test_shapes_that_differ_name_parameter_expected_and_found(model):
    state = {**model.state_dict(), "visual.proj": torch.zeros(3, 4), "extra": torch.zeros(1)}
    del state["logit_scale"]
    with pytest.raises(UserError) as caught:
        check_shapes(state, model, where="reference")
    assert caught.value.parts["expected"] == "extra absent; logit_scale []; visual.proj [32, 16]"
    assert caught.value.parts["found"] == "extra [1]; logit_scale absent; visual.proj [3, 4]"
