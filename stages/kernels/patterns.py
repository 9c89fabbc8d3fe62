"""Vote patterns: all votes of a sample in one integer, and integer counts over them that add up over partitions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ABSTAIN, DROP, KEEP = -1, 0, 1
MAX_VOTERS = 40
"""3^40 is the largest power of three below 2^64."""
ALL_ABSTAIN = 0
"""The pattern of a sample for which nobody voted."""
_TABLE_VOTERS = 13
"""Voters up to whose 3^13 = 1.6 million patterns are counted and looked up in a table rather than by sorting."""
_BLOCK = 1 << 16
"""Rows or patterns whose intermediate values fit into a core's cache."""


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
    packed = np.empty(len(votes[0]), np.uint64)
    nobody = np.uint64((3 ** len(votes) - 1) // 2)  # as if all votes were 0
    for start in range(0, len(packed), _BLOCK):
        digits = np.zeros(min(_BLOCK, len(packed) - start), np.int64)
        for column in reversed(votes):
            digits *= 3
            digits += column[start : start + _BLOCK]
        packed[start : start + _BLOCK] = digits.view(np.uint64) + nobody
    return packed


def unpack(patterns: NDArray[np.uint64], num_voters: int) -> NDArray[np.int8]:
    """Votes of each pattern: [p, m] in {-1, 0, 1}."""
    powers = np.asarray([3**voter for voter in range(num_voters)], np.uint64)
    return ((patterns[:, None] // powers) % np.uint64(3)).astype(np.int8) - np.int8(1)


def distinct_patterns(
    patterns: NDArray[np.uint64], num_voters: int, counts: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The patterns that occur, ascending, and how often.

    Args:
        patterns: [n] in any order.
        num_voters: m.
        counts: [n] how often each of them stands for; once by default.

    Returns:
        distinct: [p].
        counts: [p].
    """
    if num_voters > _TABLE_VOTERS:
        distinct, inverse = np.unique(patterns, return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        np.add.at(total, inverse, 1 if counts is None else counts)
        return distinct, total
    total = np.zeros(3**num_voters, np.int64)
    if counts is None:
        total += np.bincount(patterns.view(np.int64), minlength=len(total))
    else:
        np.add.at(total, patterns.view(np.int64), counts)
    found = np.flatnonzero(total)
    return found.astype(np.uint64), total[found]


def by_pattern(
    patterns: NDArray[np.uint64], num_voters: int, value: Callable[[NDArray[np.uint64]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The value of each row's pattern: [n]; `value` sees each pattern once.

    Args:
        patterns: [n].
        num_voters: m.
        value: of distinct patterns, ascending.
    """
    if num_voters > _TABLE_VOTERS:
        distinct, inverse = np.unique(patterns, return_inverse=True)
        return value(distinct)[inverse]
    distinct, _ = distinct_patterns(patterns, num_voters)
    table = np.zeros(3**num_voters, np.float32)
    table[distinct.view(np.int64)] = value(distinct)
    return table[patterns.view(np.int64)]


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

    @classmethod
    def none(cls, num_voters: int) -> "VoteCounts":
        """Of no rows."""
        pairs = np.zeros((2 * num_voters, 2 * num_voters), np.int64)
        return cls(0, 0, pairs, np.zeros(num_voters, np.int64), np.zeros(num_voters, np.int64))

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
    total = VoteCounts.none(num_voters)
    for start in range(0, len(patterns), _BLOCK):
        total += _count_block(patterns[start : start + _BLOCK], counts[start : start + _BLOCK], num_voters)
    return total


def _count_block(patterns: NDArray[np.uint64], counts: NDArray[np.int64], num_voters: int) -> VoteCounts:
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
