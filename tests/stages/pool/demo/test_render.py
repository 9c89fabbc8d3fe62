import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stages.pool.demo.render import Shot, jpeg, render
from stages.pool.demo.scene import BACKGROUNDS, PALETTE, Glyph, Scene

GLYPH = Glyph(image=0, digit=0, colour="white", x=0.5, y=0.5, size=0.9, angle=0.0)
SCENE = Scene((GLYPH,), "plain", "blue", "blue", 1.0, texture=1)


def _mean(image, box):
    return np.asarray(image.crop(box), np.float64).mean(axis=(0, 1))


def test_plain_picture_shows_the_digit_on_its_background():
    image = render(SCENE, Shot(64, 64))
    assert np.abs(_mean(image, (0, 0, 5, 64)) - PALETTE["blue"]).max() < 50
    pixels = np.asarray(image, np.float64)
    white = np.linalg.norm(pixels - PALETTE["white"], axis=-1) < 80
    assert 0.1 < white.mean() < 0.6
    assert not white[29:35, 29:35].any()  # the hole of a zero


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("size", [(96, 72), (72, 96), (96, 18), (17, 96), (24, 24)])
def test_any_background_fills_a_picture_of_any_size(background, size):
    image = render(replace(SCENE, background=background, second="red"), Shot(*size))
    assert (image.mode, image.size) == ("RGB", size)


def test_two_coloured_backgrounds_show_both_colours():
    for background in ("gradient", "striped", "checkered"):
        pixels = np.asarray(render(replace(SCENE, background=background, second="red", glyphs=()), Shot(64, 64)), float)
        for colour in ("blue", "red"):
            assert (np.linalg.norm(pixels - PALETTE[colour], axis=-1) < 70).mean() > 0.1


def test_digit_sits_in_the_central_square_of_a_wide_picture():
    empty, drawn = (np.asarray(render(scene, Shot(96, 48)), float) for scene in (replace(SCENE, glyphs=()), SCENE))
    changed = np.flatnonzero(np.abs(empty - drawn).max(axis=(0, 2)) > 60)
    assert 24 <= changed.min() < changed.max() < 72


def test_same_scene_gives_the_same_pixels():
    first, second = (np.asarray(render(replace(SCENE, background="grainy"), Shot(40, 40))) for _ in range(2))
    assert np.array_equal(first, second)


def test_another_shot_of_a_scene_is_similar_but_not_equal():
    first = np.asarray(render(SCENE, Shot(64, 64)), float)
    second = np.asarray(render(SCENE, Shot(64, 64, brightness=0.9, crop=0.03)), float)
    assert 0 < np.abs(first - second).mean() < 30


def test_jpeg_decodes_to_almost_the_same_picture():
    image = render(SCENE, Shot(64, 48))
    decoded = Image.open(io.BytesIO(jpeg(image, 90)))
    assert decoded.size == (64, 48)
    assert np.abs(np.asarray(decoded, float) - np.asarray(image, float)).mean() < 5
