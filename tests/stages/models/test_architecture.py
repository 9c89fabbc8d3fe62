import dataclasses
import subprocess
import sys

import pytest

from stages.models.architecture import architecture_names, named_architecture, tower_fields


def test_names_read_from_files_equal_those_of_open_clip():
    import open_clip

    assert set(architecture_names()) == set(open_clip.list_models())


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP"])
def test_named_architecture_equals_open_clips_own(name):
    import open_clip

    assert named_architecture(name) == open_clip.get_model_config(name)


def test_named_architecture_unknown_name_is_a_key_error():
    with pytest.raises(KeyError, match="ViT-Z"):
        named_architecture("ViT-Z")


def test_named_architecture_changed_by_a_caller_stays_as_it_is_for_others():
    named_architecture("RN50")["vision_cfg"]["layers"].append(9)
    assert named_architecture("RN50")["vision_cfg"]["layers"] == [3, 4, 6, 3]


@pytest.mark.parametrize(("tower", "cls"), [("vision_cfg", "CLIPVisionCfg"), ("text_cfg", "CLIPTextCfg")])
def test_tower_fields_equal_the_dataclass_of_open_clip(tower, cls):
    import open_clip

    fields = dataclasses.fields(getattr(open_clip, cls))
    assert tower_fields(tower) == {field.name: field.default for field in fields}


def test_model_config_is_read_without_importing_torch():
    code = (
        "import sys; from stages.models.config import ModelConfig; c = ModelConfig(name='ViT-B-32');"
        "assert (c.image_size, c.context_length, c.num_tokens) == (224, 77, 50);"
        "assert not {'torch', 'open_clip', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
