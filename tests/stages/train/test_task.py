"""The contrastive task: losses as torch and open_clip compute them, whatever the rank's share."""

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.train.task import Batch, ContrastiveTask, Encoders, pixels_of
from tests.stages.train.tiny import tiny_batch, tiny_clip


def unit(seed: int, size: int, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(size, width, generator=generator, dtype=torch.float64), dim=-1)


def losses(images: Tensor, texts: Tensor, scale: float, bias: float | None = None) -> Tensor:
    batch = Batch(images, torch.zeros(len(images), 1), torch.ones(len(images), dtype=torch.bool))
    scalars = {"logit_scale": torch.tensor(scale, dtype=torch.float64)}
    if bias is not None:
        scalars["logit_bias"] = torch.tensor(bias, dtype=torch.float64)
    return ContrastiveTask().losses(batch, (images, texts), (images, texts), scalars)


@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, np.log(100)))
@settings(deadline=None, max_examples=40)
def test_losses_equal_cross_entropies_of_rows_and_columns(seed: int, size: int, scale: float) -> None:
    images, texts = unit(seed, size), unit(seed + 1, size)
    logits = np.exp(scale) * images @ texts.T
    labels = torch.arange(size)
    expected = (
        F.cross_entropy(logits, labels, reduction="none") + F.cross_entropy(logits.T, labels, reduction="none")
    ) / 2
    torch.testing.assert_close(losses(images, texts, scale), expected, rtol=1e-9, atol=1e-9)


def test_mean_loss_is_open_clips_own() -> None:
    images, texts = unit(0, 9), unit(1, 9)
    expected = open_clip.ClipLoss()(images, texts, torch.tensor(20.0, dtype=torch.float64))
    assert float(losses(images, texts, float(np.log(20.0))).mean()) == pytest.approx(float(expected), rel=1e-9)


def test_mean_loss_with_a_bias_is_open_clips_own() -> None:
    images, texts = unit(0, 9), unit(1, 9)
    scale = torch.tensor(20.0, dtype=torch.float64)
    expected = open_clip.ClipLoss()(images, texts, scale, torch.tensor(-2.0, dtype=torch.float64))
    assert float(losses(images, texts, float(scale.log()), -2.0).mean()) == pytest.approx(float(expected), rel=1e-9)


def test_losses_are_alike_for_images_and_captions_exchanged() -> None:
    images, texts = unit(3, 7), unit(4, 7)
    torch.testing.assert_close(losses(images, texts, 2.0), losses(texts, images, 2.0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("world", [2, 3, 6])
def test_losses_of_a_share_are_those_of_the_whole(world: int) -> None:
    images, texts = unit(5, 12), unit(6, 12)
    whole = losses(images, texts, 3.0)
    task, scalars = ContrastiveTask(), {"logit_scale": torch.tensor(3.0, dtype=torch.float64)}
    for mine in torch.arange(12).chunk(world):
        batch = Batch(images[mine], mine[:, None], torch.ones(len(mine), dtype=torch.bool))
        found = task.losses(batch, (images[mine], texts[mine]), (images, texts), scalars)
        torch.testing.assert_close(found, whole[mine], rtol=1e-12, atol=1e-12)


def test_huge_logits_do_not_overflow() -> None:
    images = torch.eye(4, dtype=torch.float32)
    batch = Batch(images, torch.zeros(4, 1), torch.ones(4, dtype=torch.bool))
    found = ContrastiveTask().losses(
        batch, (images, images.flip(0)), (images, images.flip(0)), {"logit_scale": torch.tensor(5.0)}
    )
    assert bool(torch.isfinite(found).all())
    assert float(found.min()) > 100


def test_scalars_are_those_that_the_model_has() -> None:
    task = ContrastiveTask()
    assert set(task.scalars(tiny_clip(0))) == {"logit_scale"}
    biased = tiny_clip(0)
    biased.logit_bias = torch.nn.Parameter(torch.tensor(0.5))
    assert set(task.scalars(biased)) == {"logit_scale", "logit_bias"}
    assert task.scalars(biased)["logit_bias"] is biased.logit_bias


def test_encoders_give_open_clips_unit_features_in_the_precision_of_the_weights() -> None:
    model, batch = tiny_clip(0), tiny_batch(5)
    image, text = Encoders(model)(batch.images, batch.tokens)
    assert image.dtype == torch.float64
    torch.testing.assert_close(image, model.encode_image(batch.images, normalize=True))
    torch.testing.assert_close(text, model.encode_text(batch.tokens, normalize=True))
    low = Encoders(tiny_clip(0).bfloat16())(batch.images.bfloat16(), batch.tokens)
    assert [features.dtype for features in low] == [torch.float32] * 2
    torch.testing.assert_close(low[0].norm(dim=1), torch.ones(5))


def test_encoders_share_the_parameters_of_the_model() -> None:
    model = tiny_clip(0)
    assert {id(p) for p in Encoders(model).parameters()} == {id(p) for p in model.parameters()}


def test_task_without_tangents_stands_still() -> None:
    moves = ContrastiveTask().tangents(tiny_batch(6), {"x": torch.ones(1)})
    assert [tuple(move.shape) for move in moves] == [(6, 0), (6, 0)]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_pieces_are_consecutive_and_lose_nothing(number: int) -> None:
    batch = tiny_batch(8, fillers=3)
    pieces = batch.pieces(number)
    assert [len(piece) for piece in pieces] == [8 // number] * number
    for name in ("images", "tokens", "scored"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(batch, name))


def test_pixels_of_bytes_are_normalised_and_floats_are_taken_as_they_are() -> None:
    batch = tiny_batch(2)
    assert pixels_of(batch) is batch.images
    raw = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    found = pixels_of(Batch(raw, batch.tokens[:1], batch.scored[:1]))
    mean, std = (torch.tensor(v) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    torch.testing.assert_close(found[0, :, 0, 0], (1 - mean) / std)
