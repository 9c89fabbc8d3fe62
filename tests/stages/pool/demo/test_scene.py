import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.pool.demo.scene import BACKGROUNDS, PALETTE, draw_scene
from stages.pool.demo.sources import split_sources

SOURCE = split_sources(0)["pool"]


def _distance(first, second):
    return np.linalg.norm(np.subtract(PALETTE[first], PALETTE[second], dtype=float))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_any_scene_is_readable_and_inside_the_picture(seed):
    scene = draw_scene(SOURCE, np.random.default_rng(seed))
    assert 1 <= len(scene.glyphs) <= 3
    assert 0.74 < scene.aspect < 1.35
    for glyph in scene.glyphs:
        assert glyph.image in SOURCE.by_digit[glyph.digit]
        assert min(_distance(glyph.colour, scene.colour), _distance(glyph.colour, scene.second)) > 130
        assert 0 < glyph.x - glyph.size * 0.3 < glyph.x + glyph.size * 0.3 < 1
        assert 0 < glyph.y - glyph.size * 0.3 < glyph.y + glyph.size * 0.3 < 1


def test_scenes_vary_over_backgrounds_colours_and_digits():
    scenes = [draw_scene(SOURCE, np.random.default_rng(seed)) for seed in range(300)]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {glyph.colour for scene in scenes for glyph in scene.glyphs} == set(PALETTE)
    assert {glyph.digit for scene in scenes for glyph in scene.glyphs} == set(range(10))
    assert {len(scene.glyphs) for scene in scenes} == {1, 2, 3}


def test_same_generator_state_gives_the_same_scene():
    assert draw_scene(SOURCE, np.random.default_rng(9)) == draw_scene(SOURCE, np.random.default_rng(9))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_number_of_glyphs_can_be_asked_for(count):
    assert len(draw_scene(SOURCE, np.random.default_rng(0), num_glyphs=count).glyphs) == count


def test_content_is_the_sorted_digits():
    scene = draw_scene(SOURCE, np.random.default_rng(1), num_glyphs=3)
    assert list(scene.digits) == sorted(glyph.digit for glyph in scene.glyphs)
