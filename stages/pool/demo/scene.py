"""What a picture shows: digits in colours on a background, before anything is drawn."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from stages.pool.demo.sources import Source

Background = Literal["plain", "gradient", "grainy", "striped", "checkered"]
BACKGROUNDS: tuple[Background, ...] = ("plain", "gradient", "grainy", "striped", "checkered")

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "green": (35, 150, 60),
    "blue": (40, 70, 205),
    "yellow": (240, 215, 45),
    "orange": (245, 135, 25),
    "purple": (140, 50, 175),
    "pink": (245, 150, 190),
    "white": (245, 245, 242),
    "black": (22, 22, 26),
    "grey": (130, 132, 135),
}
"""Colours by the name that captions give them, RGB 0..255."""

_NAMES = tuple(PALETTE)
_MIN_CONTRAST = 130.0
_LAYOUTS = {
    1: ((0.5, 0.5),),
    2: ((0.28, 0.5), (0.72, 0.5)),
    3: ((0.5, 0.27), (0.27, 0.73), (0.73, 0.73)),
}
_SIZES = {1: (0.65, 0.95), 2: (0.46, 0.58), 3: (0.42, 0.5)}
_NUM_GLYPHS = (0.6, 0.3, 0.1)


@dataclass(frozen=True)
class Glyph:
    """One handwritten digit in a picture."""

    image: int
    """Number of the source image."""
    digit: int
    colour: str
    x: float
    """Centre, as a share of the shorter side, from the left of the central square."""
    y: float
    """Centre, as a share of the shorter side, from the top of the central square."""
    size: float
    """Side, as a share of the shorter side."""
    angle: float
    """Degrees, anticlockwise."""


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows."""

    glyphs: tuple[Glyph, ...]
    background: Background
    colour: str
    """Main colour of the background."""
    second: str
    """Its other colour, where it has two."""
    aspect: float
    """Width over height."""
    texture: int
    """Seed of grain, stripe width and colour jitter."""

    @property
    def digits(self) -> tuple[int, ...]:
        """The digits shown, sorted: pictures with equal ones count as of the same content."""
        return tuple(sorted(glyph.digit for glyph in self.glyphs))


def draw_scene(source: Source, rng: np.random.Generator, *, num_glyphs: int | None = None) -> Scene:
    """A random scene of one to three digits, each well visible on its background."""
    count = num_glyphs or 1 + int(rng.choice(3, p=_NUM_GLYPHS))
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    main = str(rng.choice(_NAMES))
    two = background in ("gradient", "striped", "checkered")
    second = str(rng.choice([name for name in _NAMES if name != main])) if two else main
    readable = [name for name in _NAMES if min(_contrast(name, main), _contrast(name, second)) > _MIN_CONTRAST]
    if not readable:  # two backgrounds that between them leave no colour free
        second, background = main, "plain"
        readable = [name for name in _NAMES if _contrast(name, main) > _MIN_CONTRAST]
    glyphs = tuple(_glyph(source, rng, place, _SIZES[count], readable) for place in _LAYOUTS[count])
    aspect = float(np.exp(rng.uniform(np.log(0.75), np.log(1.34))))
    return Scene(glyphs, background, main, second, aspect, int(rng.integers(2**31)))


def _glyph(
    source: Source,
    rng: np.random.Generator,
    place: tuple[float, float],
    sizes: tuple[float, float],
    colours: list[str],
) -> Glyph:
    digit = int(rng.integers(10))
    images = source.by_digit[digit]
    x, y = (float(centre + rng.uniform(-0.05, 0.05)) for centre in place)
    return Glyph(
        image=images[int(rng.integers(len(images)))],
        digit=digit,
        colour=str(rng.choice(colours)),
        x=x,
        y=y,
        size=float(rng.uniform(*sizes)),
        angle=float(rng.normal(0, 6)),
    )


def _contrast(first: str, second: str) -> float:
    difference = np.subtract(PALETTE[first], PALETTE[second], dtype=np.float64)
    return float(np.sqrt((difference**2).sum()))
