"""What the aggregation counts: votes by pattern, and where raw scores lie; exact sums over buckets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.engine import Engine
from pipeline.errors import RunError
from stages.kernels.buckets import bucket_groups, bucket_path
from stages.kernels.patterns import VoteCounts, count_votes, distinct_patterns, pack
from stages.kernels.radix import NUM_BINS
from stages.kernels.scale import Quantiles, Scale
from stages.kernels.score_values import by_sample, scaled_scores

MAX_PATTERNS = 1 << 16
"""Distinct vote patterns up to which they are counted one by one on the driver."""
_HELD_PATTERNS = 1 << 21
"""Distinct vote patterns that a task holds at most, beyond those of a bucket."""
_GROUPS = 64
_UID = ("uid_hi", "uid_lo")

Patterns = tuple[NDArray[np.uint64], NDArray[np.int64]]
"""Distinct patterns and their rows."""
_NO_PATTERNS: Patterns = np.empty(0, np.uint64), np.empty(0, np.int64)


@dataclass(frozen=True)
class Source:
    """One selector's score table and the scale on which its mean is taken."""

    selector: str
    table: Artifact
    scale: Scale
    votes: bool

    @property
    def by_place(self) -> bool:
        """Whether its scores are placed among all raw scores of the pool."""
        return self.votes and self.scale == "raw"


@dataclass(frozen=True)
class Tally:
    """Exact sums over buckets."""

    votes: VoteCounts
    patterns: Patterns | None
    """Distinct patterns and their rows; None once there are too many."""
    quantiles: Mapping[str, Quantiles]
    """Of the mean scores of the raw-scaled selectors that vote."""

    def __add__(self, other: "Tally") -> "Tally":
        merged = None
        if self.patterns and other.patterns:
            merged = _joined(self.patterns, other.patterns, self.votes.num_voters)
            merged = merged if len(merged[0]) <= MAX_PATTERNS else None
        quantiles = {name: Quantiles(own.counts + other.quantiles[name].counts) for name, own in self.quantiles.items()}
        return Tally(self.votes + other.votes, merged, quantiles)


def count_all(engine: Engine, votes: Artifact, sources: Sequence[Source] = ()) -> Tally:
    """Count the votes of all buckets, and place the raw scores of the voting ones among `sources`."""
    names = [voter["name"] for voter in votes.summary["voters"]]
    groups = bucket_groups(1 << int(votes.summary["bucket_bits"]), _GROUPS)
    task = partial(_tally, votes, names, sources)
    return reduce(Tally.__add__, engine.map(task, groups, name="aggregate: counts", weigh=len))


def mean_scores(source: Source, bucket: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.float32]]:
    """Mean scaled score of each scored sample of a bucket: uid halves and means, in uid order."""
    columns = {"batch_rank": ["rank"], "batch_z": ["z"], "weight": ["weight", "batch"], "raw": ["score"]}[source.scale]
    table = source.table.read_table(bucket_path(bucket), [*_UID, "visit", *columns])
    try:
        rows, means = by_sample(table, scaled_scores(table, source.scale), "mean")
    except ValueError as error:
        where = source.table.uri(bucket_path(bucket))
        raise RunError("a score table holds what cannot be averaged", where=where, found=error) from error
    return table["uid_hi"].to_numpy()[rows], table["uid_lo"].to_numpy()[rows], means


def _tally(votes: Artifact, voters: Sequence[str], sources: Sequence[Source], buckets: Sequence[int]) -> Tally:
    """Of a group of buckets; memory is that of one bucket's votes, and of the patterns."""
    total, whole = VoteCounts.none(len(voters)), True
    patterns, counts = _NO_PATTERNS
    quantiles = {source.selector: np.zeros(NUM_BINS, np.int64) for source in sources if source.by_place}
    for bucket in buckets:
        table = votes.read_table(bucket_path(bucket), list(voters))
        found = distinct_patterns(pack([table[name].to_numpy() for name in voters]), len(voters))
        patterns, counts = _joined((patterns, counts), found, len(voters))
        if len(patterns) > _HELD_PATTERNS:
            total, whole = total + count_votes(patterns, counts, len(voters)), False
            patterns, counts = _NO_PATTERNS
        for source in sources:
            if source.by_place and len(means := mean_scores(source, bucket)[2]):
                quantiles[source.selector] += Quantiles.count(means)
    kept = (patterns, counts) if whole and len(patterns) <= MAX_PATTERNS else None
    placed = {name: Quantiles(places) for name, places in quantiles.items()}
    return Tally(total + count_votes(patterns, counts, len(voters)), kept, placed)


def _joined(one: Patterns, other: Patterns, num_voters: int) -> Patterns:
    patterns, counts = (np.concatenate(pair) for pair in zip(one, other, strict=True))
    return distinct_patterns(patterns, num_voters, counts)
