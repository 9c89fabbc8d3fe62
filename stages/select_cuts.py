"""The lines that `top`, `bottom` and `clip_score` clauses draw through the whole pool, all found together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Engine
from stages.kernels.buckets import bucket_groups
from stages.kernels.radix import Cut, Keys, Request, Search, candidates, histogram, top_count
from stages.select_config import ClipScoreClause, Path, SelectConfig
from stages.select_frame import Frame, Sources, column_values, read_missing
from stages.select_rules import CutClause, Evaluation, cut_clauses

_HISTOGRAMS = 512
"""Histograms (of 512 KiB) that may meet on the driver in one pass."""


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
    counts: NDArray[np.int64] | None
    keys: Keys | None


def find_cuts(engine: Engine, selection: Selection, num_buckets: int) -> list[CutFound]:
    """Find all cuts of the rule; those that do not wait for others are sought in the same passes."""
    wanted = list(cut_clauses(selection.config.rule))
    found: dict[Path, CutFound] = {}
    searches: dict[Path, Search] = {}
    bases: dict[Path, int] = {}
    while len(found) < len(wanted):
        known = {path: each.threshold for path, each in found.items()}
        ready = [cut for cut in wanted if cut.path not in found and cut.after <= known.keys()]
        asked = [(cut, searches[cut.path].request() if cut.path in searches else Request(())) for cut in ready]
        groups = bucket_groups(num_buckets, max(16, _HISTOGRAMS // len(ready)))
        task = partial(_answer, selection.with_cuts(known), asked)
        answers = engine.map(task, groups, name="select: cuts", weigh=len)
        for place, (cut, request) in enumerate(asked):
            parts = [part for group in answers for part in group[place]]
            if cut.path not in searches:
                bases[cut.path] = sum(part.base for part in parts)
                if _is_inclusive(cut, selection.config):
                    bases[cut.path] -= int(selection.sources.pool.summary["without_metadata"])
                searches[cut.path] = Search(parts[0].widths, wanted_rows(cut, bases[cut.path], selection.config))
            search = searches[cut.path]
            if request.collect:
                search.collect([part.keys for part in parts if part.keys is not None])
            else:
                search.feed(np.sum([part.counts for part in parts if part.counts is not None], axis=0))
            if search.cut is not None:
                assert search.k is not None
                found[cut.path] = CutFound(cut, bases[cut.path], search.k, search.cut)
    return [found[cut.path] for cut in wanted]


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


def _answer(
    selection: Selection, asked: Sequence[tuple[CutClause, Request]], buckets: Sequence[int]
) -> list[list[_Answer]]:
    """For each clause, answers of a group of buckets (histograms already added up)."""
    evaluation = selection.evaluation()
    answers: list[list[_Answer]] = [[] for _ in asked]
    for bucket in buckets:
        frame = Frame(selection.sources, bucket)
        for place, (cut, request) in enumerate(asked):
            keys, base = evaluation.rankable(cut, frame)
            _add(answers[place], keys, base, request)
            if isinstance(cut.clause, ClipScoreClause) and _is_inclusive(cut, selection.config):
                _add(answers[place], *_rows_without_sample(selection, cut.clause, bucket), request)
    return answers


def _add(answers: list[_Answer], keys: Keys, base: int, request: Request) -> None:
    if request.collect:
        answers.append(_Answer(base, keys.widths, None, candidates(keys, request)))
        return
    counts = histogram(keys, request)
    if answers:
        last = answers.pop()
        assert last.counts is not None
        base, counts = base + last.base, counts + last.counts
    answers.append(_Answer(base, keys.widths, counts, None))


def _rows_without_sample(selection: Selection, clause: ClipScoreClause, bucket: int) -> tuple[Keys, int]:
    rows = read_missing(selection.sources.pool, bucket, [clause.column])
    values = column_values(rows[clause.column])
    return Keys(values.keys).take(values.present), rows.height
