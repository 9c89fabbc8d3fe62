"""Rules evaluated on one bucket, in three-valued logic: holds, does not hold, cannot be known.

A clause cannot be known where the score that it ranks or compares by is absent. `all`, `any` and `not` carry this
through as Kleene's logic does, so an absent score matters only where it could decide; `select.unscored` says what
becomes of samples for which the whole rule stays open. Absent metadata is no score: such a sample is in no top and no
bottom and reaches no number, as DataComp has it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.kernels.radix import Cut, Keys
from stages.select_config import ClipScoreClause, Path, RankClause, Rule
from stages.select_frame import Frame, Values, column_values

Unscored = Literal["keep", "drop"]


@dataclass(frozen=True)
class Verdict:
    """What a clause says of each row: [n] each; neither means that it cannot be known."""

    holds: NDArray[np.bool_]
    fails: NDArray[np.bool_]

    @classmethod
    def of_all(cls, clauses: Sequence["Verdict"]) -> "Verdict":
        """That all of these hold, at least one."""
        return cls(
            np.logical_and.reduce([clause.holds for clause in clauses]),
            np.logical_or.reduce([clause.fails for clause in clauses]),
        )

    @property
    def opposite(self) -> "Verdict":
        """That it does not hold."""
        return Verdict(self.fails, self.holds)


@dataclass(frozen=True)
class Prior:
    """A clause that precedes another one in an enclosing `all`."""

    path: Path
    rule: Rule
    before: "tuple[Prior, ...]"
    """What precedes it in turn."""


@dataclass(frozen=True)
class CutClause:
    """A clause that needs a line drawn through the whole pool."""

    path: Path
    clause: RankClause | ClipScoreClause
    direction: Literal["top", "bottom"]
    before: tuple[Prior, ...]
    """What precedes it in the enclosing `all`s."""

    @property
    def after(self) -> frozenset[Path]:
        """Cuts that must be known first."""
        if isinstance(self.clause, ClipScoreClause) or self.clause.of != "selected":
            return frozenset()
        return frozenset(cut.path for prior in self.before for cut in cut_clauses(prior.rule, prior.path))


@dataclass(frozen=True)
class Evaluation:
    """A rule's parameters once (some of) its cuts are known."""

    cuts: Mapping[Path, Cut]
    unscored: Unscored
    inclusive: bool
    """Whether `clip_score` cuts as DataComp does."""

    def verdict(self, rule: Rule, frame: Frame, path: Path = (), before: tuple[Prior, ...] = ()) -> Verdict:
        """What the rule says of each row of a bucket."""
        if rule.all or rule.any:
            children = [
                self.verdict(child.rule, frame, child.path, child.before) for child in children_of(rule, path, before)
            ]
            if rule.all:
                return Verdict.of_all(children)
            return Verdict.of_all([child.opposite for child in children]).opposite
        if rule.not_:
            return self.verdict(rule.not_, frame, (*path, 0), before).opposite
        return self._leaf(rule, frame, path, before)

    def rankable(self, cut: CutClause, frame: Frame) -> tuple[Keys, int]:
        """Keys of the rows among which a clause ranks, and how many rows its fraction is of."""
        clause = cut.clause
        if isinstance(clause, ClipScoreClause):
            values = column_values(frame.table[clause.column])
            keys = Keys(values.keys) if self.inclusive else frame.keys(values, "top")
            return _taken(keys, values.present), len(frame)
        values = frame.values(clause.by)
        keys = frame.keys(values, cut.direction)
        if clause.of == "selected":
            mask = self.selected(cut.before, frame)
            return _taken(keys, values.present & mask), int(mask.sum())
        return _taken(keys, values.present), len(frame) if clause.of == "pool" else int(values.present.sum())

    def selected(self, before: tuple[Prior, ...], frame: Frame) -> NDArray[np.bool_]:
        """Rows that all of these clauses let through."""
        mask = np.ones(len(frame), bool)
        for prior in before:
            verdict = self.verdict(prior.rule, frame, prior.path, prior.before)
            mask &= ~verdict.fails if self.unscored == "keep" else verdict.holds
        return mask

    def _leaf(self, rule: Rule, frame: Frame, path: Path, before: tuple[Prior, ...]) -> Verdict:
        if rule.basic:
            return _definite(frame.passed(path))
        if rule.clip_score:
            return self._clip_score(rule.clip_score, frame, path)
        if rule.at_least:
            values = frame.values(rule.at_least.by)
            return _of_values(values, values.numbers >= rule.at_least.value)
        clause = rule.top or rule.bottom
        assert clause is not None
        values = frame.values(clause.by)
        chosen = self.cuts[path].keeps(frame.keys(values, "top" if rule.top else "bottom"))
        if clause.of == "selected":
            chosen &= self.selected(before, frame)  # a row that was not ranked is not chosen, however good its value
        return _of_values(values, chosen)

    def _clip_score(self, clause: ClipScoreClause, frame: Frame, path: Path) -> Verdict:
        """As DataComp has it: an absent score is never kept."""
        values = column_values(frame.table[clause.column])
        if clause.threshold is not None:
            return _definite(values.present & (values.numbers >= clause.threshold))
        keys = Keys(values.keys) if self.inclusive else frame.keys(values, "top")
        return _definite(values.present & self.cuts[path].keeps(keys))


def children_of(rule: Rule, path: Path, before: tuple[Prior, ...]) -> Iterator[Prior]:
    """The clauses right inside a rule, each with what precedes it."""
    for place, child in enumerate(rule.all or rule.any or ([rule.not_] if rule.not_ else [])):
        found = Prior((*path, place), child, before)
        yield found
        if rule.all:
            before = (*before, found)


def cut_clauses(rule: Rule, path: Path = (), before: tuple[Prior, ...] = ()) -> Iterator[CutClause]:
    """All clauses inside a rule that need a cut, with what precedes them."""
    if rule.top or rule.bottom:
        clause = rule.top or rule.bottom
        assert clause is not None
        yield CutClause(path, clause, "top" if rule.top else "bottom", before)
    if rule.clip_score and rule.clip_score.fraction is not None:
        yield CutClause(path, rule.clip_score, "top", before)
    for child in children_of(rule, path, before):
        yield from cut_clauses(child.rule, child.path, child.before)


@dataclass(frozen=True)
class Judgement:
    """What a whole rule says of each row, and why."""

    verdict: Verdict
    failing: NDArray[np.intp]
    """[n] number of the first clause of the outermost `all` that fails; of no meaning where none does."""
    reasons: list[str]
    """Of those clauses."""


def judge(rule: Rule, evaluation: Evaluation, frame: Frame) -> Judgement:
    """Evaluate a rule whose cuts are known, each clause once."""
    if not rule.all:
        return Judgement(evaluation.verdict(rule, frame), np.zeros(len(frame), np.intp), [rule.reason])
    clauses = [evaluation.verdict(child.rule, frame, child.path, child.before) for child in children_of(rule, (), ())]
    failing = np.full(len(frame), len(clauses), np.intp)
    for number, clause in reversed([*enumerate(clauses)]):
        failing[clause.fails] = number
    return Judgement(Verdict.of_all(clauses), failing, [child.reason for child in rule.all])


def _taken(keys: Keys, rows: NDArray[np.bool_]) -> Keys:
    return keys if rows.all() else keys.take(rows)


def _of_values(values: Values, holds: NDArray[np.bool_]) -> Verdict:
    verdict = values.present & holds
    return Verdict(verdict, values.present & ~holds if values.is_score else ~verdict)


def _definite(holds: NDArray[np.bool_]) -> Verdict:
    return Verdict(holds, ~holds)
