"""Which shards a trial reads."""

import hashlib
import math
from collections.abc import Sequence

from pipeline.storage import Stat, relative


def draw_shards(files: Sequence[Stat], share: float, seed: int, *, root: str) -> list[Stat]:
    """A share of the shards, rounded up, by path.

    Those with the smallest hashes of (seed, path) are drawn, so that a larger share has all shards of a smaller one,
    wherever the pool lies.
    """
    count = math.ceil(share * len(files))
    drawn = sorted(files, key=lambda stat: _hash(seed, stat.uri if stat.uri == root else relative(root, stat.uri)))
    return sorted(drawn[:count], key=lambda stat: stat.uri)


def _hash(seed: int, path: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{path}".encode()).digest()
