"""The lines that `top`, `bottom` and `clip_score` clauses draw through the whole pool, all found together.

A sample brackets each line where it can, and one pass finds it; else a radix search takes a few (`kernels.bracket`,
`kernels.radix`). Whatever way it was found, it keeps the same rows.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pipeline.artifact import FileEntry, entries_rows
from pipeline.engine import Engine
from stages.kernels.bracket import (
    EVERYTHING,
    MAX_INSIDE,
    SAMPLE_ROWS,
    Bracket,
    Inside,
    bracket_of,
    expected_inside,
    inside_keys,
    settle,
)
from stages.kernels.buckets import bucket_groups
from stages.kernels.radix import (
    MAX_COLLECTED,
    NO_ROWS,
    Cut,
    Histogram,
    Keys,
    Request,
    Search,
    candidates,
    histogram,
    top_count,
)
from stages.select_config import ClipScoreClause, Path, SelectConfig
from stages.select_frame import Frame, Sources, column_values, read_missing
from stages.select_rules import CutClause, Evaluation, cut_clauses

_HISTOGRAMS = 512
"""Histograms (of at most 640 KiB, mostly of a few) that may meet on the driver in one pass."""
SAMPLED_BUCKETS = 2
_MAX_TIED = 1 << 20
"""Rows that brackets may bring together where what they hold are ties."""
Prepare = Callable[[int], FileEntry]
"""What is done with each bucket before a line is sought in it."""


@dataclass(frozen=True)
class Selection:
    """What every task needs: the rule, the tables behind it, and the cuts known so far."""

    config: SelectConfig
    sources: Sources
    cuts: Mapping[Path, Cut] = field(default_factory=dict)

    def evaluation(self) -> Evaluation:
        """The rule's parameters as far as they are known."""
        return Evaluation(self.cuts, self.config.unscored, self.config.datacomp_compatible)

    def with_cuts(self, cuts: Mapping[Path, Cut]) -> "Selection":
        """The same with these cuts known."""
        return Selection(self.config, self.sources, dict(cuts))


@dataclass(frozen=True)
class CutFound:
    """A clause's line and the numbers behind it."""

    cut: CutClause
    base: int
    """Rows that the fraction is of."""
    k: int
    """Rows asked for."""
    threshold: Cut


@dataclass(frozen=True)
class _Answer:
    base: int
    widths: tuple[int, ...]
    counts: Histogram | None = None
    keys: Keys | None = None
    inside: Inside | None = None


_Ask = Request | Bracket
_Answers = tuple[list[FileEntry], list[list[_Answer]]]
"""What was prepared, and for each clause what was found in the buckets of a group."""


def find_cuts(
    engine: Engine, selection: Selection, num_buckets: int, prepare: Prepare | None = None
) -> tuple[list[CutFound], list[FileEntry]]:
    """Find all cuts of the rule; those that do not wait for others are sought in the same passes.

    Args:
        engine: runs the passes.
        selection: the rule and its tables.
        num_buckets: of the pool.
        prepare: done with each bucket in the first pass, before anything is sought there.

    Returns:
        The cuts in the order of their clauses, and what was prepared.
    """
    wanted = list(cut_clauses(selection.config.rule))
    found: dict[Path, CutFound] = {}
    searches: dict[Path, Search] = {}
    bases: dict[Path, int] = {}
    prepared: list[FileEntry] = []
    while len(found) < len(wanted) or prepare is not None:
        known = selection.with_cuts({path: each.threshold for path, each in found.items()})
        ready = [cut for cut in wanted if cut.path not in found and cut.after <= known.cuts.keys()]
        brackets = _brackets(known, [cut for cut in ready if cut.path not in searches], num_buckets)
        asked: list[tuple[CutClause, _Ask]] = [
            (cut, searches[cut.path].request() if cut.path in searches else brackets.get(cut.path, Request(())))
            for cut in ready
        ]
        num_counted = sum(isinstance(ask, Request) for _, ask in asked)
        num_groups = max(16, _HISTOGRAMS // num_counted) if num_counted else num_buckets
        task = partial(_pass, known, asked, prepare)
        name = "select: cuts" if prepare is None else "select: basic filter"
        answers: list[_Answers] = engine.map(task, bucket_groups(num_buckets, num_groups), name=name, weigh=len)
        prepared += [entry for entries, _ in answers for entry in entries]
        prepare = None
        for place, (cut, ask) in enumerate(asked):
            parts = [part for _, group in answers for part in group[place]]
            if cut.path not in searches:
                bases[cut.path] = _base(cut, selection, sum(part.base for part in parts))
                searches[cut.path] = Search(parts[0].widths, wanted_rows(cut, bases[cut.path], selection.config))
            search = searches[cut.path]
            assert search.k is not None
            if isinstance(ask, Bracket):
                search.cut = settle([part.inside for part in parts if part.inside is not None], search.k)
            elif ask.collect:
                search.collect([part.keys for part in parts if part.keys is not None])
            else:
                search.feed(sum((part.counts for part in parts if part.counts is not None), NO_ROWS))
            if search.cut is not None:
                found[cut.path] = CutFound(cut, bases[cut.path], search.k, search.cut)
    return [found[cut.path] for cut in wanted], prepared


def _brackets(selection: Selection, cuts: Sequence[CutClause], num_buckets: int) -> dict[Path, Bracket]:
    """Where lines will lie, by clause, from the first rows of a few buckets; none where that narrows too little.

    Buckets are cut by uid, so that their rows are as good as drawn at random. What is ranked among the selected rows
    alone is not sampled: whether a row is one of them may be found out only in the pass itself.
    """
    cuts = [cut for cut in cuts if isinstance(cut.clause, ClipScoreClause) or cut.clause.of != "selected"]
    if not cuts:
        return {}
    if entries_rows(selection.sources.pool.files("index/")) <= MAX_COLLECTED:
        return {cut.path: EVERYTHING for cut in cuts}
    count = min(num_buckets, SAMPLED_BUCKETS)
    drawn: dict[Path, list[tuple[Keys, int]]] = {cut.path: [] for cut in cuts}
    for bucket in (number * num_buckets // count for number in range(count)):
        frame = Frame(selection.sources, bucket)
        for cut in cuts:
            drawn[cut.path] += _rankable(selection, cut, frame, bucket)
    found = {cut.path: _bracket(selection, cut, drawn[cut.path], num_buckets / count, len(cuts)) for cut in cuts}
    return {path: bracket for path, bracket in found.items() if bracket is not None}


def _bracket(
    selection: Selection, cut: CutClause, drawn: Sequence[tuple[Keys, int]], times: float, number: int
) -> Bracket | None:
    """From the rows of some buckets, of which the pool has so many times as many; one of a number of brackets."""
    num_drawn = sum(len(keys) for keys, _ in drawn)
    num_rows = times * num_drawn
    base = _base(cut, selection, round(times * sum(base for _, base in drawn)))
    part = min(1.0, SAMPLE_ROWS / max(1, num_drawn))  # the same of all, so that each counts for what it is
    sample = np.concatenate([keys.columns[0][: math.ceil(len(keys) * part)] for keys, _ in drawn])
    if not len(sample):
        return None
    share = wanted_rows(cut, base, selection.config) / num_rows
    bracket = bracket_of(sample, share)
    held = np.count_nonzero(bracket.holds(sample)) / len(sample) * num_rows
    # Where many rows have one value, all of them are held: to search costs a pass or two then, and no memory.
    is_tied = held > 2 * expected_inside(round(num_rows), share, len(sample))
    return bracket if held <= (_MAX_TIED if is_tied else MAX_INSIDE) / 2 / number else None


def _base(cut: CutClause, selection: Selection, num_rows: int) -> int:
    """What a fraction is of, from the rows that were counted."""
    without = int(selection.sources.pool.summary["without_metadata"]) if _is_inclusive(cut, selection.config) else 0
    return max(0, num_rows - without)


def wanted_rows(cut: CutClause, base: int, config: SelectConfig) -> int:
    """How many rows a clause asks for, from the size of its base."""
    clause = cut.clause
    if isinstance(clause, ClipScoreClause):
        assert clause.fraction is not None
        if _is_inclusive(cut, config):
            # DataComp takes the value at rank int(n * fraction), counted from 0, and everything that reaches it.
            return int(base * clause.fraction) + 1
        return top_count(clause.fraction, base)
    if clause.count is not None:
        return clause.count
    assert clause.fraction is not None
    return top_count(clause.fraction, base)


def _is_inclusive(cut: CutClause, config: SelectConfig) -> bool:
    """Whether the cut is DataComp's: over all metadata rows, all that reach the threshold."""
    return config.datacomp_compatible and isinstance(cut.clause, ClipScoreClause)


def _pass(
    selection: Selection,
    asked: Sequence[tuple[CutClause, _Ask]],
    prepare: Prepare | None,
    buckets: Sequence[int],
) -> _Answers:
    """Over a group of buckets (histograms already added up)."""
    prepared: list[FileEntry] = []
    answers: list[list[_Answer]] = [[] for _ in asked]
    most = MAX_INSIDE // max(1, len(asked))
    for bucket in buckets:
        if prepare is not None:
            prepared.append(prepare(bucket))
        if not asked:
            continue
        frame = Frame(selection.sources, bucket)
        for place, (cut, ask) in enumerate(asked):
            for keys, base in _rankable(selection, cut, frame, bucket):
                _add(answers[place], keys, base, ask, most)
    return prepared, answers


def _rankable(selection: Selection, cut: CutClause, frame: Frame, bucket: int) -> Iterator[tuple[Keys, int]]:
    """Keys of the rows of a bucket among which a clause ranks, and how many rows its fraction is of."""
    yield selection.evaluation().rankable(cut, frame)
    if isinstance(cut.clause, ClipScoreClause) and _is_inclusive(cut, selection.config):
        missing = read_missing(selection.sources.pool, bucket, [cut.clause.column])
        values = column_values(missing[cut.clause.column])
        yield Keys(values.keys).take(values.present), missing.height


def _add(answers: list[_Answer], keys: Keys, base: int, ask: _Ask, most: int) -> None:
    if isinstance(ask, Bracket):
        answers.append(_Answer(base, keys.widths, inside=inside_keys(keys, ask, most)))
        return
    if ask.collect:
        answers.append(_Answer(base, keys.widths, keys=candidates(keys, ask)))
        return
    counts = histogram(keys, ask)
    if answers:
        last = answers.pop()
        assert last.counts is not None
        base, counts = base + last.base, counts + last.counts
    answers.append(_Answer(base, keys.widths, counts))
