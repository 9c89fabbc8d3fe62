"""Draw a scene and compress it."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from stages.pool.demo.scene import PALETTE, Glyph, Scene
from stages.pool.demo.sources import ink

_JITTER = 14.0


@dataclass(frozen=True)
class Shot:
    """How a scene was photographed and stored."""

    width: int
    """Pixels, as stored."""
    height: int
    quality: int = 88
    """Of the JPEG, 1 to 95."""
    brightness: float = 1.0
    crop: float = 0.0
    """Share cut off at each side before storing."""


def render(scene: Scene, shot: Shot) -> Image.Image:
    """The picture of a scene, RGB."""
    height = round(shot.height / (1 - 2 * shot.crop))
    width = round(shot.width / (1 - 2 * shot.crop))
    rng = np.random.default_rng(scene.texture)
    canvas = _background(scene, width, height, rng)  # float32 [H, W, 3]
    for glyph in scene.glyphs:
        _draw(canvas, glyph, rng)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    left, top = (width - shot.width) // 2, (height - shot.height) // 2
    image = image.crop((left, top, left + shot.width, top + shot.height))
    return image if shot.brightness == 1.0 else ImageEnhance.Brightness(image).enhance(shot.brightness)


def jpeg(image: Image.Image, quality: int) -> bytes:
    """A picture as JPEG."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def _background(scene: Scene, width: int, height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    first, second = _jittered(scene.colour, rng), _jittered(scene.second, rng)
    short = min(width, height)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / short
    if scene.background == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * x + np.sin(angle) * y
        mix = (ramp - ramp.min()) / (np.ptp(ramp) + 1e-6)
    elif scene.background == "striped":
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.14, 0.24)
        mix = ((np.cos(angle) * x + np.sin(angle) * y) // (period / 2)) % 2
    elif scene.background == "checkered":
        cell = rng.uniform(0.12, 0.2)
        mix = (x // cell + y // cell) % 2
    else:
        mix = np.zeros_like(x)
    canvas: NDArray[np.float32] = first + mix[..., None].astype(np.float32) * (second - first)
    if scene.background == "grainy":
        canvas = canvas + rng.normal(0, 30, (height, width, 1)).astype(np.float32)
    return canvas


def _draw(canvas: NDArray[np.float32], glyph: Glyph, rng: np.random.Generator) -> None:
    """Blend one digit into the canvas, in place."""
    height, width = canvas.shape[:2]
    short = min(height, width)
    side = max(4, round(glyph.size * short))
    drawn = Image.fromarray((ink(glyph.image) * 255).astype(np.uint8))
    drawn = drawn.resize((side, side), Image.Resampling.BICUBIC).rotate(glyph.angle, Image.Resampling.BICUBIC)
    alpha = np.clip(np.asarray(drawn, np.float32) / 255 * 1.7 - 0.2, 0, 1)[..., None]  # [side, side, 1]
    left = round((width - short) / 2 + glyph.x * short - side / 2)
    top = round((height - short) / 2 + glyph.y * short - side / 2)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    alpha = alpha[y0 - top : y1 - top, x0 - left : x1 - left]
    region = canvas[y0:y1, x0:x1]
    region += alpha * (_jittered(glyph.colour, rng) - region)


def _jittered(colour: str, rng: np.random.Generator) -> NDArray[np.float32]:
    return (np.array(PALETTE[colour], np.float32) + rng.normal(0, _JITTER, 3)).astype(np.float32)
