import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from pipeline.progress import Reporter
from stages.pool.demo.scorers import RECIPES, SIDE, clean_sample, similarity, thumbnail, train_scorer
from stages.pool.demo.sources import split_sources


def _sample(size, seed, part="scorer"):
    with Reporter().bar("sample", size, "samples") as bar:
        return clean_sample(split_sources(0)[part], size, seed, bar)


def _train(recipe, pixels, captions):
    with Reporter().bar("train", None, "samples") as bar:
        return train_scorer(recipe, pixels, captions, 0, bar)


def test_thumbnail_is_the_central_square():
    image = Image.new("RGB", (96, 48), (255, 0, 0))
    image.paste((0, 255, 0), (24, 0, 72, 48))
    pixels = thumbnail(image)
    assert pixels.shape == (3, SIDE, SIDE)
    assert (pixels[0] == 0).all()
    assert (pixels[1] == 255).all()


@pytest.fixture(scope="module")
def large():
    return _train(RECIPES[1], *_sample(1024, 0))


def test_trained_scorer_tells_true_captions_from_others(large):
    pixels, captions = _sample(300, 1, "evaluation")
    true, false = similarity(*large, pixels, captions), similarity(*large, pixels, captions[1:] + captions[:1])
    assert roc_auc_score([1] * 300 + [0] * 300, np.concatenate([true, false])) > 0.6


def test_training_again_gives_the_same_scores_whatever_the_threads():
    pixels, captions = _sample(128, 2)
    threads = torch.get_num_threads()
    scores = []
    for count in (1, 2):
        torch.set_num_threads(count)
        scores.append(similarity(*_train(RECIPES[0], pixels, captions), pixels, captions))
    torch.set_num_threads(threads)
    assert np.array_equal(*scores)


def test_second_scorer_is_the_larger():
    small, large = (recipe.model.architecture["vision_cfg"] for recipe in RECIPES)
    assert small["width"] < large["width"]
    assert small["layers"] < large["layers"]
