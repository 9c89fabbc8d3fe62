"""Where each voter's line between keep and drop lies, found in a few passes over integer histograms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.engine import Engine
from pipeline.errors import RunError
from stages.binarize_config import Voter
from stages.kernels import cluster1d, patterns
from stages.kernels.buckets import bucket_groups, bucket_path
from stages.kernels.cluster1d import Bins, Split
from stages.kernels.radix import (
    Cut,
    Keys,
    Request,
    Search,
    ascending,
    candidates,
    float_of_key,
    histogram,
    order_key,
    top_count,
)
from stages.kernels.score_values import COLUMNS, by_sample, scaled_scores

_HISTOGRAMS = 512
"""Histograms (of 512 KiB) that may meet on the driver in one pass."""
_WIDTHS = (32, 64, 64)  # score, uid_hi, uid_lo


@dataclass(frozen=True)
class VoterScores:
    """One value a sample, in uid order."""

    uid_hi: NDArray[np.uint64]
    uid_lo: NDArray[np.uint64]
    values: NDArray[np.float32]

    @property
    def keys(self) -> Keys:
        """By value, descending; then by uid, ascending."""
        return Keys((order_key(self.values), ascending(self.uid_hi), ascending(self.uid_lo)))


@dataclass
class VoterFit:
    """The line of one voter, while and after it is sought."""

    voter: Voter
    scored: int = 0
    low: float = np.inf
    high: float = -np.inf
    search: Search | None = None
    bins: Bins | None = None
    split: Split | None = None

    @property
    def cut(self) -> Cut | None:
        """Of a top fraction."""
        return self.search.cut if self.search else None

    @property
    def threshold(self) -> float | None:
        """The line as a value on the voter's scale; None where nothing is kept or there is no line."""
        if self.voter.method == "threshold":
            return self.voter.threshold
        if self.cut and self.cut.threshold:
            return float_of_key(self.cut.threshold[0])
        return self.bins.edge(self.split.cut) if self.bins and self.split else None

    def votes(self, scores: VoterScores) -> NDArray[np.int8]:
        """Keep or drop for each value; abstain where no line was found."""
        if self.voter.method == "threshold":
            return (scores.values > np.float32(self.voter.threshold)).astype(np.int8)
        if self.cut is not None:
            return self.cut.keeps(scores.keys).astype(np.int8)
        if self.split is None or self.bins is None:
            return np.full(len(scores.values), patterns.ABSTAIN, np.int8)
        return (self.bins.index(scores.values) >= self.split.cut).astype(np.int8)


@dataclass(frozen=True)
class _Tally:
    """What the first pass says of one voter: counts, range, and the histogram of the keys' first digit."""

    scored: int = 0
    low: float = np.inf
    high: float = -np.inf
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def __add__(self, other: "_Tally") -> "_Tally":
        low, high = min(self.low, other.low), max(self.high, other.high)
        return _Tally(self.scored + other.scored, low, high, self.counts + other.counts)


def read_voters(
    scores: Mapping[str, Artifact], voters: Sequence[Voter], bucket: int
) -> Iterator[tuple[int, VoterScores]]:
    """Values of each voter in one bucket, with the voter's number; each table is read once.

    Raises:
        RunError: a score is NaN or infinite, or a sample has two scores of one visit.
    """
    for selector in dict.fromkeys(voter.selector for voter in voters):
        own = [(index, voter) for index, voter in enumerate(voters) if voter.selector == selector]
        columns = dict.fromkeys(name for _, voter in own for name in COLUMNS[voter.scale])
        table = scores[selector].read_table(bucket_path(bucket), ["uid_hi", "uid_lo", "visit", *columns])
        uid_hi, uid_lo = table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy()
        for index, voter in own:
            where = scores[selector].uri(bucket_path(bucket))
            try:
                values = scaled_scores(table, voter.scale)
            except ValueError as error:
                raise RunError("a score table holds what cannot be ranked", where=where, found=error) from error
            rows, chosen = by_sample(table, values, voter.visit)
            found = VoterScores(uid_hi[rows], uid_lo[rows], chosen)
            _refuse_repeats(found, where)
            yield index, found


def fit_voters(
    engine: Engine, scores: Mapping[str, Artifact], voters: Sequence[Voter], *, num_buckets: int, pool_rows: int
) -> list[VoterFit]:
    """Find all voters' lines together: one pass for counts and ranges, then passes that refine what is open."""
    groups = bucket_groups(num_buckets, max(16, _HISTOGRAMS // len(voters)))
    tallies = engine.map(partial(_tally, scores, voters), groups, name="binarize: counts", weigh=len)
    fits = [
        _begin(voter, reduce(_Tally.__add__, (group[index] for group in tallies)), pool_rows)
        for index, voter in enumerate(voters)
    ]
    while asked := {index: ask for index, fit in enumerate(fits) if (ask := _open(fit)) is not None}:
        task = partial(_answer, scores, voters, asked)
        answers = engine.map(task, groups, name="binarize: refine", weigh=len)
        for index, ask in asked.items():
            _take(fits[index], ask, [group[index] for group in answers])
    return fits


_Ask = Request | Bins
_Answer = NDArray[np.int64] | list[Keys]


def _tally(scores: Mapping[str, Artifact], voters: Sequence[Voter], buckets: Sequence[int]) -> list[_Tally]:
    tallies = [_Tally() for _ in voters]
    for bucket in buckets:
        for index, found in read_voters(scores, voters, bucket):
            if len(found.values) == 0:
                continue
            counts = np.zeros(1, np.int64)
            if voters[index].method == "top_fraction":
                counts = histogram(found.keys, Request(()))
            low, high = float(found.values.min()), float(found.values.max())
            tallies[index] += _Tally(len(found.values), low, high, counts)
    return tallies


def _begin(voter: Voter, tally: _Tally, pool_rows: int) -> VoterFit:
    fit = VoterFit(voter, tally.scored, tally.low, tally.high)
    if voter.method == "top_fraction":
        base = pool_rows if voter.of == "pool" else tally.scored
        fit.search = Search(_WIDTHS, top_count(voter.fraction, base))
        fit.search.feed(tally.counts)
    return fit


def _open(fit: VoterFit) -> _Ask | None:
    if fit.search is not None:
        return fit.search.request() if fit.search.cut is None else None
    if fit.voter.method in ("kmeans", "gmm") and fit.bins is None and fit.scored:
        return Bins(fit.low, fit.high)
    return None


def _answer(
    scores: Mapping[str, Artifact], voters: Sequence[Voter], asked: Mapping[int, _Ask], buckets: Sequence[int]
) -> dict[int, _Answer]:
    open_voters = [voters[index] for index in asked]
    numbers = list(asked)
    answers: dict[int, _Answer] = {
        index: [] if isinstance(ask, Request) and ask.collect else np.zeros(cluster1d.NUM_BINS, np.int64)
        for index, ask in asked.items()
    }
    for bucket in buckets:
        for place, found in read_voters(scores, open_voters, bucket):
            index = numbers[place]
            ask = asked[index]
            answer = answers[index]
            if isinstance(answer, list):
                assert isinstance(ask, Request)
                answer.append(candidates(found.keys, ask))
            else:
                answer += ask.count(found.values) if isinstance(ask, Bins) else histogram(found.keys, ask)
    return answers


def _take(fit: VoterFit, ask: _Ask, answers: Sequence[_Answer]) -> None:
    if isinstance(ask, Request) and ask.collect:
        assert fit.search is not None
        fit.search.collect([keys for answer in answers if isinstance(answer, list) for keys in answer])
        return
    counts = np.sum([answer for answer in answers if isinstance(answer, np.ndarray)], axis=0)
    if isinstance(ask, Request):
        assert fit.search is not None
        fit.search.feed(counts)
        return
    fit.bins = ask
    fit.split = cluster1d.two_means(counts) if fit.voter.method == "kmeans" else cluster1d.gaussian_mixture(counts)


def _refuse_repeats(found: VoterScores, where: str) -> None:
    ascends = (found.uid_hi[1:] > found.uid_hi[:-1]) | (
        (found.uid_hi[1:] == found.uid_hi[:-1]) & (found.uid_lo[1:] > found.uid_lo[:-1])
    )
    if not ascends.all():
        row = int(np.argmin(ascends)) + 1
        raise RunError(
            "a score table is not sorted by uid and visit, or scores a visit twice",
            where=where,
            found=f"uid {int(found.uid_hi[row]):016x}{int(found.uid_lo[row]):016x}",
        )
