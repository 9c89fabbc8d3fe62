"""Vote patterns: all votes of a sample in one integer, and integer counts over them that add up over partitions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ABSTAIN, DROP, KEEP = -1, 0, 1
MAX_VOTERS = 40
"""3^40 is the largest power of three below 2^64."""
ALL_ABSTAIN = 0
"""The pattern of a sample for which nobody voted."""


def pack(votes: Sequence[NDArray[np.int8]]) -> NDArray[np.uint64]:
    """Votes as base-3 digits, the first voter's the lowest: 0 abstain, 1 drop, 2 keep.

    Args:
        votes: m columns of n votes in {-1, 0, 1}.

    Returns:
        [n] patterns.

    Raises:
        ValueError: more voters than fit.
    """
    if len(votes) > MAX_VOTERS:
        raise ValueError(f"{len(votes)} voters; a vote pattern holds at most {MAX_VOTERS}")
    packed = np.zeros(len(votes[0]), np.uint64)
    for voter, column in enumerate(votes):
        packed += (column + 1).astype(np.uint64) * np.uint64(3**voter)
    return packed


def unpack(patterns: NDArray[np.uint64], num_voters: int) -> NDArray[np.int8]:
    """Votes of each pattern: [p, m] in {-1, 0, 1}."""
    powers = np.asarray([3**voter for voter in range(num_voters)], np.uint64)
    return ((patterns[:, None] // powers) % np.uint64(3)).astype(np.int8) - np.int8(1)


@dataclass(frozen=True)
class VoteCounts:
    """All that a label model and its diagnostics need of the votes; sums of partitions are exact."""

    rows: int
    voted: int
    """Rows with at least one vote."""
    cooccurrence: NDArray[np.int64]
    """[2m, 2m]: rows in which voter i votes y and voter j votes z, at [2i + y, 2j + z]."""
    overlap: NDArray[np.int64]
    """[m]: rows in which the voter votes and another one does."""
    conflict: NDArray[np.int64]
    """[m]: rows in which the voter votes and another one votes otherwise."""

    @property
    def num_voters(self) -> int:
        """M."""
        return len(self.overlap)

    @property
    def votes(self) -> NDArray[np.int64]:
        """Votes cast, by voter: [m, 2] (drop, keep)."""
        return np.diagonal(self.cooccurrence).reshape(-1, 2)

    def __add__(self, other: "VoteCounts") -> "VoteCounts":
        return VoteCounts(
            self.rows + other.rows,
            self.voted + other.voted,
            self.cooccurrence + other.cooccurrence,
            self.overlap + other.overlap,
            self.conflict + other.conflict,
        )


def count_votes(patterns: NDArray[np.uint64], counts: NDArray[np.int64], num_voters: int) -> VoteCounts:
    """Count over distinct patterns and how often each occurs.

    Args:
        patterns: [p] distinct.
        counts: [p] rows with that pattern.
        num_voters: m.
    """
    votes = unpack(patterns, num_voters)
    ballots = one_hot(votes)
    # Sums of integers below 2^53 are exact in float64 in whatever order the matrix product takes them.
    cooccurrence = (ballots.T * counts) @ ballots
    cast = votes != ABSTAIN
    keeps, drops = (votes == KEEP).sum(axis=1), (votes == DROP).sum(axis=1)
    overlap = cast & (keeps + drops > 1)[:, None]
    conflict = cast & ((keeps > 0) & (drops > 0))[:, None]
    return VoteCounts(
        int(counts.sum()),
        int(counts[patterns != ALL_ABSTAIN].sum()),
        cooccurrence.astype(np.int64),
        (overlap * counts[:, None]).sum(axis=0),
        (conflict * counts[:, None]).sum(axis=0),
    )


def one_hot(votes: NDArray[np.int8]) -> NDArray[np.float64]:
    """Indicator of each vote, abstentions all zero: [p, 2m], voter j's drop and keep at 2j and 2j + 1."""
    both = np.stack([votes == DROP, votes == KEEP], axis=2)
    return both.reshape(len(votes), -1).astype(np.float64)
