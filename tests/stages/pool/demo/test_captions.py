import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from stages.pool.demo.captions import WORDS, describe, lengthen, shorten
from stages.pool.demo.scene import PALETTE, draw_scene
from stages.pool.demo.sources import split_sources

SOURCE = split_sources(0)["pool"]
DECOR = re.compile(r" \(2019\)")


def _said(caption):
    """Digits that a caption names, sorted."""
    words = re.findall(r"[a-z]+|\d", DECOR.sub("", caption.lower()))
    return sorted(
        WORDS.index(word) if word in WORDS else int(word) for word in words if word in WORDS or word.isdigit()
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_description_names_exactly_the_digits_shown_and_no_colour_that_is_not(seed):
    rng = np.random.default_rng(seed)
    scene = draw_scene(SOURCE, rng)
    caption = describe(scene, rng)
    assert _said(caption) == list(scene.digits)
    shown = {glyph.colour for glyph in scene.glyphs} | {scene.colour, scene.second}
    assert {word for word in re.findall("[a-z]+", caption) if word in PALETTE} <= shown
    assert "{" not in caption
    assert len(caption.split()) >= 2


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_short_caption_has_one_or_two_words(seed):
    rng = np.random.default_rng(seed)
    assert 1 <= len(shorten(draw_scene(SOURCE, rng), rng).split()) <= 2


def test_long_caption_keeps_the_description_and_exceeds_77_tokens():
    tokenizer = SimpleTokenizer()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        caption = describe(draw_scene(SOURCE, rng), rng)
        assert lengthen(caption, rng).startswith(caption + " ")
        assert len(tokenizer.encode(lengthen(caption, rng))) > 77
