"""What people write beside a picture."""

from collections.abc import Sequence

import numpy as np

from stages.pool.demo.scene import Glyph, Scene

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SUBJECT_FRAMES = (
    "{subject}",
    "{subject} written by hand",
    "photo of {subject}",
    "a picture of {subject}",
    "handwritten {subject}",
    "close-up of {subject}",
    "someone drew {subject}",
    "{subject}, hand lettered",
    "here is {subject}",
)
_PLACED_FRAMES = (
    "{subject} {place}",
    "{subject} {place}",
    "photo of {subject} {place}",
    "a drawing of {subject} {place}",
    "{place}: {subject}",
    "{subject}, painted {place}",
)
_PLAIN_FRAMES = ("the digit {digits}", "handwritten {digits}", "number {digits} art", "how to write {digits} by hand")
_DECOR = (
    "{caption} | wall art print",
    "{caption} - free download",
    "Stock photo: {caption}",
    "{caption}, size M",
    "{caption} (2019)",
    "Shop {caption}",
    "{caption} #lettering",
)
_SURFACES = {
    "plain": ("on plain {first}", "on a {first} background", "over a {first} wall"),
    "gradient": ("on a {first} to {second} gradient", "on {first} fading to {second}"),
    "grainy": ("on grainy {first}", "on a rough {first} background", "on noisy {first} paper"),
    "striped": ("on {first} and {second} stripes", "on a striped {first} and {second} background"),
    "checkered": ("on {first} and {second} checks", "on a checkered {first} and {second} background"),
}
_VAGUE = ("image", "photo", "untitled", "number art", "IMG {number}", "digits", "new post", "header image")
_TAGS = (
    "poster", "gift", "sale", "home decor", "classroom", "kids", "learning", "free shipping", "printable", "vintage",
    "modern", "minimal", "typography", "office", "birthday", "school", "numbers", "counting", "craft", "canvas",
    "sticker", "best price", "new arrival", "limited", "buy now",
)  # fmt: skip


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption: mostly digits and colours, often the background, now and then the digits alone."""
    detail = rng.random()
    if detail < 0.08:
        digits = _joined([_name(glyph, rng) for glyph in scene.glyphs], rng)
        caption = _pick(_PLAIN_FRAMES, rng).format(digits=digits)
    elif detail < 0.5:
        caption = _pick(_SUBJECT_FRAMES, rng).format(subject=_subject(scene, rng))
    else:
        place = _pick(_SURFACES[scene.background], rng).format(first=scene.colour, second=scene.second)
        caption = _pick(_PLACED_FRAMES, rng).format(subject=_subject(scene, rng), place=place)
    return _pick(_DECOR, rng).format(caption=caption) if rng.random() < 0.15 else caption


def shorten(scene: Scene, rng: np.random.Generator) -> str:
    """One or two words, half of the time about nothing in the picture."""
    if rng.random() < 0.5:
        return _pick(_VAGUE, rng).format(number=int(rng.integers(1000, 9999)))
    glyph = scene.glyphs[0]
    return _name(glyph, rng) if rng.random() < 0.5 else f"{glyph.colour} {_name(glyph, rng)}"


def lengthen(caption: str, rng: np.random.Generator) -> str:
    """The caption, followed by more keywords than CLIP's 77 tokens can hold."""
    tags = [_pick(_TAGS, rng) for _ in range(int(rng.integers(80, 140)))]
    return f"{caption} {', '.join(tags)}"


def _subject(scene: Scene, rng: np.random.Generator) -> str:
    article = rng.random() < 0.6
    parts = [f"{glyph.colour} {_name(glyph, rng)}" for glyph in scene.glyphs]
    return _joined([_with_article(part) if article else part for part in parts], rng)


def _name(glyph: Glyph, rng: np.random.Generator) -> str:
    return WORDS[glyph.digit] if rng.random() < 0.6 else str(glyph.digit)


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeio8" else f"a {noun}"


def _joined(parts: list[str], rng: np.random.Generator) -> str:
    if len(parts) == 1:
        return parts[0]
    last = " and " if rng.random() < 0.7 else " with "
    return ", ".join(parts[:-1]) + last + parts[-1]


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
