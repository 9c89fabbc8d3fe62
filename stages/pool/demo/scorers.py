"""Two CLIP models, a smaller and a larger one, trained on a clean sample of their own: the metadata's scores."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from pipeline.progress import Bar
from stages.models.build import Tokenizer, build_model, build_tokenizer
from stages.models.config import ModelConfig
from stages.models.encode import encode_images, encode_texts
from stages.models.threads import fixed_threads
from stages.pool.demo.captions import describe
from stages.pool.demo.render import Shot, render
from stages.pool.demo.scene import draw_scene
from stages.pool.demo.sources import Source

SIDE = 32
"""Pixels of the pictures that the scorers look at."""
_BATCH = 64
_LEARNING_RATE = 2e-3
_CONTEXT = 24


@dataclass(frozen=True)
class Recipe:
    """A scorer's size and training."""

    name: str
    """As in the metadata's column `clip_<name>_similarity_score`."""
    width: int
    layers: int
    epochs: int

    @property
    def model(self) -> ModelConfig:
        """Architecture of both towers."""
        return ModelConfig(
            embed_dim=self.width,
            vision_cfg={
                "image_size": SIDE, "patch_size": 8, "layers": self.layers, "width": self.width, "head_width": 16,
            },
            text_cfg={
                "context_length": _CONTEXT, "layers": self.layers, "width": self.width, "heads": self.width // 16,
            },
        )  # fmt: skip


RECIPES = (Recipe("b32", width=32, layers=1, epochs=3), Recipe("l14", width=48, layers=2, epochs=2))


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """A picture as the scorers see it: central square, shrunk; uint8 [3, SIDE, SIDE]."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def clean_sample(source: Source, size: int, seed: int, bar: Bar) -> tuple[NDArray[np.uint8], list[str]]:
    """Pictures [size, 3, SIDE, SIDE] and true captions from the scorers' own digits."""
    pixels = np.empty((size, 3, SIDE, SIDE), np.uint8)
    captions = []
    for index in range(size):
        rng = np.random.default_rng([seed, 4, index])
        scene = draw_scene(source, rng)
        height, width = (48, round(48 * scene.aspect)) if scene.aspect >= 1 else (round(48 / scene.aspect), 48)
        pixels[index] = thumbnail(render(scene, Shot(width, height)))
        captions.append(describe(scene, rng))
        bar.advance()
    return pixels, captions


def train_scorer(
    recipe: Recipe, pixels: NDArray[np.uint8], captions: list[str], seed: int, bar: Bar
) -> "tuple[torch.nn.Module, Tokenizer]":
    """Train one CLIP model by its plain contrastive loss, on one thread, so that sums come out the same anywhere."""
    tokenizer = build_tokenizer(recipe.model)
    with fixed_threads(1):
        model = build_model(recipe.model, seed)
        tokens, images = tokenizer(captions), torch.from_numpy(pixels)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)
        num_steps = recipe.epochs * (len(captions) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=num_steps)
        for batch in _batches(len(captions), recipe.epochs, seed):
            features = encode_images(model, images[batch])
            texts = encode_texts(model, tokens[batch])
            logits = model.logit_scale.exp() * features @ texts.T  # [B, B]
            target = torch.arange(_BATCH)
            loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            optimizer.step()
            schedule.step()
            bar.advance(_BATCH, f"{recipe.name} loss {loss.item():.2f}")
    return model.eval(), tokenizer


def similarity(
    model: torch.nn.Module, tokenizer: Tokenizer, pixels: NDArray[np.uint8], captions: list[str]
) -> NDArray[np.float64]:
    """Cosine of picture and caption, [N]."""
    cosines = []
    with fixed_threads(1), torch.inference_mode():
        for start in range(0, len(captions), 256):
            images = encode_images(model, torch.from_numpy(pixels[start : start + 256]))
            texts = encode_texts(model, tokenizer(captions[start : start + 256]))
            cosines.append((images * texts).sum(-1).double().numpy())
    return np.concatenate(cosines)


def _batches(size: int, epochs: int, seed: int) -> Iterator[torch.Tensor]:
    for epoch in range(epochs):
        order = np.random.default_rng([seed, 5, epoch]).permutation(size)
        for start in range(0, size - _BATCH + 1, _BATCH):
            yield torch.from_numpy(order[start : start + _BATCH])
