"""Where each voter's line between keep and drop lies, found in one pass over the scores, or a few.

Ties go to the smaller uid. Tables are sorted by uid, so a row's place says as much, and no uid is read before a line is
found; then the uid at its place is looked up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import Artifact, entries_rows
from pipeline.engine import Engine
from stages.binarize_config import Voter
from stages.binarize_values import PLACED_WIDTHS, VoterScores, cut_by_uid, placed_voters
from stages.kernels import cluster1d, patterns
from stages.kernels.bracket import (
    EVERYTHING,
    MAX_INSIDE,
    SAMPLE_ROWS,
    Bracket,
    Inside,
    bracket_of,
    expected_inside,
    inside,
    settle,
)
from stages.kernels.buckets import bucket_groups
from stages.kernels.cluster1d import Bins, Split
from stages.kernels.radix import (
    MAX_COLLECTED,
    NO_ROWS,
    Cut,
    Histogram,
    Keys,
    Request,
    Search,
    candidates,
    float_of_key,
    histogram,
    top_count,
)

_HISTOGRAMS = 512
"""Histograms (of at most 640 KiB, mostly of a few) that may meet on the driver in one pass."""
_SAMPLED_BUCKETS = 2


@dataclass
class VoterFit:
    """The line of one voter, while and after it is sought."""

    voter: Voter
    scored: int = 0
    low: float = np.inf
    high: float = -np.inf
    search: Search | None = None
    """For the cut by score and place."""
    cut: Cut | None = None
    """Of a top fraction, by score and uid, once it is found."""
    bins: Bins | None = None
    split: Split | None = None

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
    """What the first pass says of one voter: counts, range, and what is inside its bracket.

    Without a bracket the histogram of the keys' first digit takes its place.
    """

    scored: int = 0
    low: float = np.inf
    high: float = -np.inf
    counts: Histogram = NO_ROWS
    inside: tuple[Inside, ...] = ()

    def __add__(self, other: "_Tally") -> "_Tally":
        low, high = min(self.low, other.low), max(self.high, other.high)
        counts, both = self.counts + other.counts, self.inside + other.inside
        return _Tally(self.scored + other.scored, low, high, counts, both)


def fit_voters(
    engine: Engine, scores: Mapping[str, Artifact], voters: Sequence[Voter], *, num_buckets: int, pool_rows: int
) -> list[VoterFit]:
    """Find all voters' lines together: one pass mostly suffices for top fractions, others refine what is open."""
    groups = bucket_groups(num_buckets, max(16, _HISTOGRAMS // len(voters)))
    brackets = _brackets(scores, voters, num_buckets, pool_rows)
    tally = partial(_tally, scores, voters, brackets)
    tallies = engine.map(tally, groups, name="binarize: counts", weigh=len)
    fits = [
        _begin(voter, reduce(_Tally.__add__, (group[index] for group in tallies)), pool_rows)
        for index, voter in enumerate(voters)
    ]
    while asked := {index: ask for index, fit in enumerate(fits) if (ask := _open(fit)) is not None}:
        answer = partial(_answer, scores, voters, asked)
        answers = engine.map(answer, groups, name="binarize: refine", weigh=len)
        for index, ask in asked.items():
            _take(fits[index], ask, [group[index] for group in answers])
    for fit in fits:
        if fit.search is not None and fit.search.cut is not None:
            fit.cut = cut_by_uid(fit.search.cut, fit.voter, scores, num_buckets)
    return fits


def _brackets(
    scores: Mapping[str, Artifact], voters: Sequence[Voter], num_buckets: int, pool_rows: int
) -> dict[int, Bracket]:
    """Where top fractions will end, by voter, from the first rows of a few buckets; none where that narrows too little.

    Buckets are cut by uid, so that their rows are as good as drawn at random; where they are not, the search is longer.
    """
    top = [index for index, voter in enumerate(voters) if voter.method == "top_fraction"]
    rows = {voters[index].selector: entries_rows(scores[voters[index].selector].files("bucket-")) for index in top}
    if max(rows.values(), default=0) <= MAX_COLLECTED:
        return dict.fromkeys(top, EVERYTHING)
    count = min(num_buckets, _SAMPLED_BUCKETS)
    samples: dict[int, list[NDArray[np.float32]]] = {index: [] for index in top}
    for bucket in (number * num_buckets // count for number in range(count)):
        for place, found in placed_voters(scores, [voters[index] for index in top], bucket):
            samples[top[place]].append(found.values[: SAMPLE_ROWS // count])
    brackets = {}
    for index in top:
        sample, voter = np.concatenate(samples[index]), voters[index]
        num_rows = rows[voter.selector]
        if not len(sample):
            continue
        share = voter.fraction * (1 if voter.of == "scored" else pool_rows / num_rows)
        if expected_inside(num_rows, share, len(sample)) <= MAX_INSIDE // len(top):
            brackets[index] = bracket_of(sample, share)
    return brackets


_Ask = Request | Bins
_Answer = Histogram | list[Keys]


def _tally(
    scores: Mapping[str, Artifact], voters: Sequence[Voter], brackets: Mapping[int, Bracket], buckets: Sequence[int]
) -> list[_Tally]:
    tallies = [_Tally() for _ in voters]
    most = MAX_INSIDE // max(1, len(brackets))
    for bucket in buckets:
        for index, found in placed_voters(scores, voters, bucket):
            num_rows = len(found.values)
            if num_rows == 0:
                continue
            if index in brackets:
                tallies[index] += _Tally(num_rows, inside=(inside(found.values, found.place, brackets[index], most),))
            elif voters[index].method == "top_fraction":
                tallies[index] += _Tally(num_rows, counts=histogram(found.keys, Request(())))
            else:
                tallies[index] += _Tally(num_rows, float(found.values.min()), float(found.values.max()))
    return tallies


def _begin(voter: Voter, tally: _Tally, pool_rows: int) -> VoterFit:
    fit = VoterFit(voter, tally.scored, tally.low, tally.high)
    if voter.method == "top_fraction":
        base = pool_rows if voter.of == "pool" else tally.scored
        fit.search = Search(PLACED_WIDTHS, top_count(voter.fraction, base))
        if len(tally.counts.bins):
            fit.search.feed(tally.counts)
        else:
            fit.search.cut = settle(tally.inside, min(fit.search.k or 0, tally.scored))
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
        index: [] if isinstance(ask, Request) and ask.collect else NO_ROWS for index, ask in asked.items()
    }
    for bucket in buckets:
        for place, found in placed_voters(scores, open_voters, bucket):
            index = numbers[place]
            ask = asked[index]
            answer = answers[index]
            if isinstance(answer, list):
                assert isinstance(ask, Request)
                answer.append(candidates(found.keys, ask))
            elif isinstance(ask, Bins):
                answers[index] = answer + Histogram.of(ask.count(found.values))
            else:
                answers[index] = answer + histogram(found.keys, ask)
    return answers


def _take(fit: VoterFit, ask: _Ask, answers: Sequence[_Answer]) -> None:
    if isinstance(ask, Request) and ask.collect:
        assert fit.search is not None
        fit.search.collect([keys for answer in answers if isinstance(answer, list) for keys in answer])
        return
    summed = sum((answer for answer in answers if isinstance(answer, Histogram)), NO_ROWS)
    if isinstance(ask, Request):
        assert fit.search is not None
        fit.search.feed(summed)
        return
    counts = summed.dense()
    fit.bins = ask
    fit.split = cluster1d.two_means(counts) if fit.voter.method == "kmeans" else cluster1d.gaussian_mixture(counts)
