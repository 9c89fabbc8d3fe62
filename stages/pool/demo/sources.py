"""Real handwriting, dealt out so that pool, scorers and evaluation share no digit."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

_SHARES = {"pool": 0.5, "scorer": 0.3, "evaluation": 0.2}


@dataclass(frozen=True)
class Source:
    """Which of scikit-learn's 1,797 handwritten digits one part of the demo may draw."""

    by_digit: tuple[tuple[int, ...], ...]
    """Image numbers of each digit 0 to 9."""

    def images(self) -> set[int]:
        """All image numbers."""
        return {image for images in self.by_digit for image in images}


@cache
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    loaded = load_digits()
    return (loaded.images / 16.0).astype(np.float32), loaded.target.astype(np.int64)


def ink(image: int) -> NDArray[np.float32]:
    """Ink of one handwritten digit, 0 to 1, [8, 8]."""
    drawn: NDArray[np.float32] = _digits()[0][image]
    return drawn


def split_sources(seed: int) -> dict[str, Source]:
    """Deal the images of each digit to `pool`, `scorer` and `evaluation`; no image goes to two of them."""
    labels = _digits()[1]
    parts: dict[str, list[tuple[int, ...]]] = {name: [] for name in _SHARES}
    rng = np.random.default_rng([seed, 0])
    for digit in range(10):
        images = rng.permutation(np.flatnonzero(labels == digit))
        cuts = np.cumsum([round(share * len(images)) for share in _SHARES.values()])[:-1]
        for name, part in zip(_SHARES, np.split(images, cuts), strict=True):
            parts[name].append(tuple(int(image) for image in part))
    return {name: Source(tuple(by_digit)) for name, by_digit in parts.items()}
