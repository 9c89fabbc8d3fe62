"""What a training in draft mode says of its pixels."""

from pathlib import Path

from pipeline.artifact import Artifact
from stages.train.draft_difference import NUM_SAMPLES, draft_difference
from tests.stages.train.test_loader import spec_of
from tests.stages.train.test_stage import recipe, train
from tests.stages.train.tiny_pool import make_pool


def test_plain_pictures_do_not_differ_and_the_first_shard_is_enough(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, [0, NUM_SAMPLES + 3, 5], side=40)
    assert draft_difference(spec_of(pool)) == {"samples": NUM_SAMPLES, "mean": 0.0, "max": 0}


def test_difference_is_that_of_the_pictures(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, [6], side=40, noise=True)
    found = draft_difference(spec_of(pool))
    assert found["samples"] == 6
    assert 1 <= found["max"] <= 2
    assert 0 < found["mean"] < 0.3


def test_training_in_draft_mode_says_how_far_its_pixels_are_from_exact_ones(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", [12, 12], side=40, noise=True)
    exact, draft = (train(tmp_path / name, pool, recipe(decode=name)) for name in ("exact", "draft"))
    assert "draft_difference" not in exact.summary
    assert draft.summary["draft_difference"]["samples"] == 12
    assert weights(exact) != weights(draft)


def weights(training: Artifact) -> bytes:
    return training.read_bytes("model/open_clip_model.safetensors")
