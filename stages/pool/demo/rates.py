"""How much of what is wrong in the demo pool."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class IllRates:
    """Shares of the pool's samples that carry each planted ill; a sample carries at most one of them."""

    mismatched: float = 0.25
    """Caption of another image that shows other digits."""
    short_caption: float = 0.04
    """Caption of one or two words."""
    long_caption: float = 0.03
    """Caption beyond CLIP's 77 tokens."""
    near_duplicate: float = 0.03
    """The picture of an earlier sample again: other size, crop, brightness and compression."""
    tiny: float = 0.02
    """Shorter side below 200 pixels where it was crawled."""
    extreme_aspect: float = 0.02
    """Longer side more than three times the shorter."""
    truncated_image: float = 0.002
    """JPEG cut off."""
    no_caption: float = 0.002
    """Sample without a caption file."""
    missing: float = 0.01
    """Rows of the metadata whose download failed, on top of the samples."""

    def counts(self, num_samples: int) -> dict[str, int]:
        """Samples of each ill (and missing rows), rounded, at least one where the share is not zero."""
        return {
            name: max(1, round(share * num_samples)) if share > 0 else 0
            for name, share in dataclasses.asdict(self).items()
        }
