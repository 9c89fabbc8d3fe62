"""One pair of the demo pool, before and after it is drawn."""

from dataclasses import dataclass

from stages.pool.demo.render import Shot
from stages.pool.demo.scene import Scene

STORED_SIDE = 96
"""Longer side of a stored picture, pixels; larger ones were shrunk to it, smaller ones were left."""


@dataclass(frozen=True)
class Sample:
    """An image-text pair as crawled, and what is wrong with it."""

    uid: str
    """32 hex digits."""
    scene: Scene
    shot: Shot
    original_width: int
    """Pixels, before the picture was shrunk."""
    original_height: int
    caption: str
    """The caption it comes with."""
    true_caption: str
    """A caption of what the picture shows."""
    ills: tuple[str, ...] = ()
    """Names of planted ills, as in `IllRates`; besides, `duplicate_uid` and `truncated_tar`."""
    trusted: bool = False
    duplicate_of: str | None = None
    """Uid of the picture that this one repeats."""

    @property
    def mismatched(self) -> bool:
        """Whether the caption is of another picture."""
        return "mismatched" in self.ills

    @property
    def url(self) -> str:
        """Where it might have come from."""
        return f"https://pictures.example/{self.uid[:2]}/{self.uid}.jpg"


def stored_size(width: int, height: int) -> tuple[int, int]:
    """Size after shrinking the longer side to `STORED_SIDE`, aspect kept; never enlarged."""
    scale = min(1.0, STORED_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
