"""Configuration of the selection: a rule over anything that is keyed by uid.

A rule is a mapping with one key. Clauses nest:

    rule:
      all:
        - top: {by: clip_l14_similarity_score, fraction: 0.3, of: pool}
        - not: {bottom: {by: mimic, fraction: 0.05, of: pool}}
        - basic: {language: ascii_heuristic}
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from pipeline.config_base import Config
from stages.kernels.basic_config import BasicBounds

Path = tuple[int, ...]
"""Place of a clause in a rule: numbers of the children from the root."""
RankBase = Literal["pool", "scored", "selected"]
DECISION = "p_keep"
RANDOM = "random"
POOL_COLUMNS = ("text_len", "words", "width", "height", "bytes")
"""Columns of the pool's own index that a rule may name."""


class RankClause(Config):
    """The first or last so many samples by a value; exactly so many, ties going to the smaller uid."""

    by: str
    """`p_keep`, a selector (its mean score), a metadata column, or `random`."""
    fraction: float | None = Field(None, gt=0, le=1)
    """Share of the base; k = floor(fraction * base)."""
    count: int | None = Field(None, ge=0)
    """A number of samples instead of a share."""
    of: RankBase = "pool"
    """Base: all usable samples of the `pool`, those `scored` by this value, or those that the clauses before this one
    have `selected` (only these are ranked then)."""

    @model_validator(mode="after")
    def _one_size(self) -> "RankClause":
        if (self.fraction is None) == (self.count is None):
            raise ValueError("give either `fraction` or `count`")
        return self

    def without_effect(self) -> list[str]:
        """See `Config`."""
        counted = self.count is not None and self.is_set("of") and self.of != "selected"
        return [f"of: `{self.of}` has no effect on a `count`"] if counted else []

    @property
    def label(self) -> str:
        """As a person would say it."""
        size = f"{self.fraction:g} of {self.of}" if self.fraction is not None else f"{self.count} of {self.of}"
        return f"{size} by {self.by}"


class AtLeastClause(Config):
    """Samples whose value reaches a number."""

    by: str
    """As in `top`."""
    value: float
    """The smallest value that is kept."""

    @property
    def label(self) -> str:
        """As a person would say it."""
        return f"{self.by} at least {self.value:g}"


class BasicClause(BasicBounds):
    """DataComp's basic filter on the metadata: language, caption length, image size and shape."""

    @property
    def columns(self) -> list[str]:
        """Metadata columns that are read."""
        tested = [self.language_column] if self.language_column is not None else []
        return [self.text, self.width, self.height, *tested]


class ClipScoreClause(Config):
    """DataComp's clip_score filter on the metadata."""

    arch: Literal["b32", "l14"]
    """Which score: `clip_b32_similarity_score` or `clip_l14_similarity_score`."""
    fraction: float | None = Field(None, gt=0, le=1)
    """Share of the pool; with `select.datacomp_compatible` DataComp's inclusive cut over all metadata rows."""
    threshold: float | None = None
    """A smallest score instead."""

    @model_validator(mode="after")
    def _one_size(self) -> "ClipScoreClause":
        if (self.fraction is None) == (self.threshold is None):
            raise ValueError("give either `fraction` or `threshold`")
        return self

    @property
    def column(self) -> str:
        """The metadata column."""
        return f"clip_{self.arch}_similarity_score"

    @property
    def label(self) -> str:
        """As a person would say it."""
        return f"clip_score {self.arch} " + (f"{self.fraction:g}" if self.fraction else f"at least {self.threshold:g}")


class Rule(Config):
    """One clause; exactly one of the keys is given."""

    model_config = ConfigDict(populate_by_name=True)

    all: "list[Rule] | None" = Field(None, min_length=1)
    """Every clause must hold."""
    any: "list[Rule] | None" = Field(None, min_length=1)
    """At least one clause must hold."""
    not_: "Rule | None" = Field(None, alias="not")
    """The clause must not hold."""
    top: RankClause | None = None
    """The best by a value."""
    bottom: RankClause | None = None
    """The worst by a value."""
    at_least: AtLeastClause | None = None
    """A smallest value."""
    basic: BasicClause | None = None
    """DataComp's basic filter."""
    clip_score: ClipScoreClause | None = None
    """DataComp's CLIP-score filter."""

    @model_validator(mode="after")
    def _one_key(self) -> "Rule":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a clause has exactly one key ({_KEYS}); found {given or 'none'}")
        return self

    def walk(self) -> "Iterator[Rule]":
        """This clause and all inside it."""
        for _, rule in self.places():
            yield rule

    def places(self, path: Path = ()) -> "Iterator[tuple[Path, Rule]]":
        """This clause and all inside it, each with its place."""
        yield path, self
        for number, child in enumerate(self.all or self.any or ([self.not_] if self.not_ else [])):
            yield from child.places((*path, number))

    @property
    def label(self) -> str:
        """As a person would say it; short enough for a reason."""
        if self.all or self.any:
            word = " and " if self.all else " or "
            return "(" + word.join(child.label for child in self.all or self.any or []) + ")"
        if self.not_:
            return f"not {self.not_.label}"
        for name in ("top", "bottom"):
            if clause := getattr(self, name):
                return f"{name} {clause.label}"
        return "basic" if self.basic else (self.at_least or self.clip_score).label  # type: ignore[union-attr]

    @property
    def reason(self) -> str:
        """Why a sample is dropped for which this clause does not hold."""
        return self.not_.label if self.not_ else f"not {self.label}"


_KEYS = "all, any, not, top, bottom, at_least, basic, clip_score"


class SelectConfig(Config):
    """Decisions and score tables to a subset."""

    rule: Rule = Field(default_factory=lambda: Rule(top=RankClause(by=DECISION, fraction=0.3, of="scored")))
    """What is kept."""
    unscored: Literal["keep", "drop"] = "drop"
    """Samples for which the rule cannot be decided, as a score that it needs is absent (never seen, nobody voted)."""
    exclude: list[str] = Field(default_factory=list)
    """Files of uids that are never kept (takedown list, evaluation set): .npy in DataComp's format, Parquet with
    `uid` or `uid_hi, uid_lo`, or text with a uid a line. They do not change what is decided about other samples."""
    datacomp_compatible: bool = False
    """`clip_score` cuts as DataComp does: the fraction is of all metadata rows, with or without a sample, the value at
    rank int(rows * fraction) counted from 0 is the threshold, and all that reach it are kept."""
    seed: int = 0
    """Of `by: random`."""

    @model_validator(mode="after")
    def _sensible(self) -> "SelectConfig":
        _check_selected(self.rule, "none before")
        if self.datacomp_compatible and not any(clause.clip_score for clause in self.rule.walk()):
            raise ValueError("datacomp_compatible has no effect: the rule has no `clip_score` clause")
        return self

    def without_effect(self) -> list[str]:
        """See `Config`."""
        return (
            ["seed: no effect, as nothing is ranked by `random`"]
            if self.is_set("seed") and RANDOM not in self.names()
            else []
        )

    def final_fraction(self) -> float | None:
        """The fraction that the rule keeps by p_keep, if it has such a clause."""
        tops = [clause.top for clause in self.rule.walk() if clause.top is not None and clause.top.by == DECISION]
        return tops[0].fraction if tops else None

    def names(self) -> list[str]:
        """All that the rule ranks or compares by: selectors, `p_keep`, `random`, columns."""
        clauses = [clause.top or clause.bottom or clause.at_least for clause in self.rule.walk()]
        return sorted({clause.by for clause in clauses if clause is not None})

    def basics(self) -> dict[Path, BasicClause]:
        """All `basic` clauses by their place."""
        return {path: rule.basic for path, rule in self.rule.places() if rule.basic}

    def basic_columns(self) -> list[str]:
        """Metadata columns that `basic` clauses need."""
        return sorted({name for clause in self.basics().values() for name in clause.columns})

    def clip_columns(self) -> list[str]:
        """Metadata columns that `clip_score` clauses need."""
        return sorted({rule.clip_score.column for rule in self.rule.walk() if rule.clip_score})

    def models(self) -> list[str]:
        """Language models that the rule needs."""
        return sorted({clause.model for clause in self.basics().values() if clause.model is not None})


def _check_selected(rule: Rule, before: Literal["none before", "some before"]) -> None:
    clause = rule.top or rule.bottom
    if clause is not None and clause.of == "selected" and before == "none before":
        raise ValueError("`of: selected` needs a clause before it in the same `all`")
    for place, child in enumerate(rule.all or []):
        _check_selected(child, "some before" if place else before)
    for child in rule.any or ([rule.not_] if rule.not_ else []):
        _check_selected(child, before)
