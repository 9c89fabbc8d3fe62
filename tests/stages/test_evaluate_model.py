import pickle

import numpy as np
import open_clip
import pytest
import torch

from pipeline.errors import RunError, UserError
from pipeline.storage import Storage
from stages.evaluate_config import EvaluateConfig
from stages.evaluate_data import find_data_sets, read_examples
from stages.evaluate_model import Evaluator, ModelFile, _Encoder
from stages.models.build import build_model, build_tokenizer
from stages.models.encode import normalise
from tests.artifacts import listed
from tests.stages.evaluation_sets import COLOURS, TEMPLATES, pixels_of, training, write_set, write_sets
from tests.stages.models.tiny import TINY

FINAL = "model/open_clip_model.safetensors"


@pytest.fixture(scope="module")
def model():
    return build_model(TINY, seed=4).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    write_sets(root)
    return root


def _evaluate(folder, root, model, batch_size=4):
    config = EvaluateConfig(data=str(folder), batch_size=batch_size)
    sets = tuple(find_data_sets(listed(folder), Storage()))
    return Evaluator(config, sets, Storage())(ModelFile(training(root, "training/x", model), FINAL))


def _features(model, folder, which):
    data_set = find_data_sets(listed(folder), Storage())[which]
    examples = list(read_examples(data_set, Storage()))
    with torch.no_grad():
        pixels = normalise(pixels_of([example.image for example in examples]))
        return model.encode_image(pixels, normalize=True).numpy(), examples


def test_zero_shot_equals_open_clips_own_classifier(model, folder, tmp_path):
    found = _evaluate(folder, tmp_path, model)["colours"]
    templates = [lambda c, text=text: text.format(c=c) for text in TEMPLATES]
    with torch.no_grad():
        weights = open_clip.build_zero_shot_classifier(model, build_tokenizer(TINY), list(COLOURS), templates).numpy()
    images, examples = _features(model, folder, 0)
    labels = np.array([example.label for example in examples])
    assert found["acc1"] == pytest.approx(np.mean((images @ weights).argmax(1) == labels))
    assert found["acc5"] == 1.0  # there are five classes


def test_retrieval_equals_a_plain_ranking(model, folder, tmp_path):
    found = _evaluate(folder, tmp_path, model)["pairs"]
    images, examples = _features(model, folder, 1)
    captions = [(caption, row) for row, example in enumerate(examples) for caption in example.captions]
    with torch.no_grad():
        texts = model.encode_text(build_tokenizer(TINY)([caption for caption, _ in captions]), normalize=True).numpy()
    owner = np.array([row for _, row in captions])
    scores = images @ texts.T
    assert found["text_retrieval_recall@1"] == pytest.approx(np.mean(owner[scores.argmax(1)] == np.arange(5)))
    assert found["image_retrieval_recall@1"] == pytest.approx(np.mean(scores.argmax(0) == owner))


def test_batch_size_changes_nothing(model, folder, tmp_path):
    assert _evaluate(folder, tmp_path / "a", model, 1) == _evaluate(folder, tmp_path / "b", model, 64)


def test_evaluator_and_model_travel_to_a_worker(model, folder, tmp_path):
    config = EvaluateConfig(data=str(folder))
    evaluator = Evaluator(config, tuple(find_data_sets(listed(folder), Storage())), Storage())
    file = ModelFile(training(tmp_path, "training/x", model), FINAL)
    there_evaluator, there_file = pickle.loads(pickle.dumps((evaluator, file)))
    assert there_evaluator(there_file) == evaluator(file)


def test_threads_are_restored(model, folder, tmp_path):
    before = torch.get_num_threads()
    _evaluate(folder, tmp_path, model)
    assert torch.get_num_threads() == before


def test_broken_picture_is_a_user_error_naming_it(model, tmp_path):
    write_set(tmp_path / "sets" / "wds_x_test", [(b"junk", "hello")], "txt", dataset_type="retrieval")
    with pytest.raises(UserError, match="s0000000"):
        _evaluate(tmp_path / "sets", tmp_path / "model", model)


def test_empty_set_is_a_user_error(model, tmp_path):
    write_set(tmp_path / "sets" / "wds_x_test", [], "txt", dataset_type="retrieval")
    with pytest.raises(UserError, match="is empty"):
        _evaluate(tmp_path / "sets", tmp_path / "model", model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tower", ["visual.proj", "text_projection"])
def test_model_that_diverged_is_an_error_and_not_a_full_score(model, folder, tmp_path, value, tower):
    """NaN is neither above nor below anything; counted naively, every true item would come first."""
    broken = build_model(TINY, seed=4)
    with torch.no_grad():
        dict(broken.named_parameters())[tower][0, 0] = value
    with pytest.raises(RunError, match="no numbers") as raised:
        _evaluate(folder, tmp_path, broken)
    assert FINAL in str(raised.value)


def test_classifier_is_the_normalised_mean_of_normalised_templates(model, folder, tmp_path):
    """Against numpy: with templates of unlike lengths, the mean of raw features would be another vector."""
    sets = tuple(find_data_sets(listed(folder), Storage()))
    encoder = _Encoder.load(ModelFile(training(tmp_path, "training/x", model), FINAL), EvaluateConfig(data="x"))
    with torch.no_grad():
        found = encoder.classifier(sets[0]).numpy()
        raw = [model.encode_text(build_tokenizer(TINY)([t.format(c=c) for t in TEMPLATES])).numpy() for c in COLOURS]
    for vector, features in zip(found, raw, strict=True):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        mean = unit.mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_epoch_end_weights_take_the_architecture_of_their_artifact(folder, tmp_path, model):
    other = build_model(TINY, seed=9).eval()
    artifact = training(tmp_path, "training/x", model, [other])
    evaluator = Evaluator(EvaluateConfig(data=str(folder)), tuple(find_data_sets(listed(folder), Storage())), Storage())
    alone = evaluator(ModelFile(training(tmp_path / "alone", "training/y", other), FINAL))
    assert evaluator(ModelFile(artifact, "models/epoch-000.safetensors")) == alone


def test_content_of_a_model_is_its_weights_and_its_config(tmp_path, model):
    one, same = (training(tmp_path / name, "training/x", model, [model]) for name in ("a", "b"))
    other = training(tmp_path / "c", "training/x", build_model(TINY, seed=5))
    assert ModelFile(one, FINAL).content == ModelFile(same, "models/epoch-000.safetensors").content
    assert ModelFile(one, FINAL).content != ModelFile(other, FINAL).content
