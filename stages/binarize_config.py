"""Configuration of the votes: who votes, on which scale, by which rule."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from pipeline.config_base import Config
from stages.kernels.patterns import MAX_VOTERS
from stages.kernels.scale import Scale
from stages.kernels.score_values import Visits

Method = Literal["top_fraction", "threshold", "kmeans", "gmm"]
Base = Literal["pool", "scored"]
VisitChoice = Literal["all", "mean", "last"] | list[int]


@dataclass(frozen=True)
class Voter:
    """One column of the votes: a selector's scores of one visit and the rule that turns them into votes."""

    selector: str
    visit: Visits
    method: Method
    fraction: float
    of: Base
    scale: Scale
    threshold: float

    @property
    def name(self) -> str:
        """Name of the column."""
        return f"{self.selector}__{self.visit}"


class VoterConfig(Config):
    """How one selector votes; what is left out is as for all."""

    method: Method | None = None
    """As in `binarize.method`."""
    fraction: float | None = Field(None, gt=0, le=1)
    """As in `binarize.fraction`."""
    of: Base | None = None
    """As in `binarize.of`."""
    scale: Scale | None = None
    """As in `binarize.scale`."""
    visits: VisitChoice | None = None
    """As in `binarize.visits`."""
    threshold: float | None = None
    """As in `binarize.threshold`."""


class BinarizeConfig(Config):
    """Scores to votes: the rule for all selectors, and exceptions by selector."""

    method: Method = "top_fraction"
    """`top_fraction`: the best `fraction` votes keep, exactly; `threshold`: what lies above `threshold`;
    `kmeans`, `gmm`: the upper one of two clusters, on a histogram of 65,536 bins."""
    fraction: float = Field(0.3, gt=0, le=1)
    """Share that `top_fraction` keeps; best the same as the final selection's."""
    of: Base = "scored"
    """Base of the fraction: all usable samples of the pool, or those that the voter has a score for."""
    scale: Scale | None = None
    """Scale of scores that belong to a batch: `batch_rank` (default), `batch_z`, `weight` (weight times batch size,
    the default for `threshold`) or `raw`. Selectors whose scores belong to no batch are always taken raw."""
    visits: VisitChoice = "all"
    """Each visit of a sample is a voter (`all`), or those listed, or one voter on the `mean` or the `last` visit."""
    threshold: float | None = None
    """What a score must exceed; 1, the uniform share, on the scale `weight`."""
    voters: dict[str, VoterConfig] | None = None
    """Selectors that vote, each with its exceptions; by default all of them."""

    @model_validator(mode="after")
    def _usable(self) -> "BinarizeConfig":
        if self.voters is not None and not self.voters:
            raise ValueError("voters: name at least one selector, or leave the key out for all of them")
        for choice in [self.visits, *(voter.visits for voter in (self.voters or {}).values())]:
            if isinstance(choice, list) and (not choice or min(choice) < 0 or len(set(choice)) < len(choice)):
                raise ValueError(f"visits: a list of different numbers from 0 on is wanted, found {choice}")
        rules = {name: self.merged(name) for name in self.voters or [None]}
        given = [self.threshold, *(voter.threshold for voter in (self.voters or {}).values())]
        if any(number is not None for number in given) and all(rule.method != "threshold" for rule in rules.values()):
            raise ValueError("threshold has no effect: nobody votes by `method: threshold`")
        for name, merged in rules.items():
            if merged.method == "threshold" and merged.threshold is None and merged.scale not in (None, "weight"):
                raise ValueError(
                    f"{name or 'binarize'}: `threshold` on the scale {merged.scale!r} needs a number in `threshold`"
                )
        return self

    def without_effect(self) -> list[str]:
        """See `Config`."""
        rules = {name: self.merged(name) for name in self.voters or [None]}
        lines = []
        own = self.is_set("fraction", "of")
        if own and all(rule.method != "top_fraction" for rule in rules.values()):
            lines.append(f"{_keys(own)} no effect: nobody votes by `method: top_fraction`")
        for name, voter in (self.voters or {}).items():
            own = voter.is_set("fraction", "of")
            if own and rules[name].method != "top_fraction":
                lines.append(f"voters.{name}: {_keys(own)} no effect with `method: {rules[name].method}`")
        return lines

    def voting(self, selectors: Sequence[str]) -> list[str]:
        """The selectors that vote, in the order of their columns.

        Raises:
            ValueError: a voter is not among the selectors.
        """
        for name in self.voters or {}:
            if name not in selectors:
                near = difflib.get_close_matches(name, selectors, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"voters: no selector is called {name!r}; there are {sorted(selectors)}{hint}")
        return sorted(self.voters if self.voters is not None else selectors)

    def num_voters(self, visits: Mapping[str, int]) -> int:
        """How many voters there will be, from the number of visits by selector.

        Raises:
            ValueError: as `voting`; more voters than a pattern holds; a listed visit that no pass makes.
        """
        total = sum(len(self._visits(name, visits[name])) for name in self.voting(list(visits)))
        if total > MAX_VOTERS:
            raise ValueError(
                f"{total} voters; at most {MAX_VOTERS} fit in a vote pattern: use `visits: mean` or a list"
            )
        return total

    def merged(self, selector: str | None) -> VoterConfig:
        """The rule for a selector: its own fields, else those for all."""
        own = (self.voters or {}).get(selector or "", VoterConfig())
        fields = type(own).model_fields
        return VoterConfig(
            **{name: value if (value := getattr(own, name)) is not None else getattr(self, name) for name in fields}
        )

    def voters_of(self, selector: str, num_visits: int, batched: Literal["batched", "unbatched"]) -> list[Voter]:
        """The voters of one selector.

        Raises:
            ValueError: scores that belong to no batch, and no number in `threshold`.
        """
        rule = self.merged(selector)
        assert rule.method is not None
        assert rule.fraction is not None
        assert rule.of is not None
        default: Scale = "weight" if rule.method == "threshold" else "batch_rank"
        scale: Scale = (rule.scale or default) if batched == "batched" else "raw"
        threshold = rule.threshold
        if rule.method == "threshold" and threshold is None:
            if scale != "weight":
                raise ValueError(f"{selector}: its scores belong to no batch; give a number in `threshold`")
            threshold = 1.0
        return [
            Voter(selector, visit, rule.method, rule.fraction, rule.of, scale, threshold or 0.0)
            for visit in self._visits(selector, num_visits)
        ]

    def _visits(self, selector: str, num_visits: int) -> list[Visits]:
        choice = self.merged(selector).visits
        if choice == "all" or choice is None:
            return list(range(num_visits))
        if isinstance(choice, str):
            return [choice]
        beyond = [visit for visit in choice if visit >= num_visits]
        if beyond and num_visits > 1:
            raise ValueError(
                f"{selector}: visits {beyond} are asked for, but it makes {num_visits} (0 to {num_visits - 1})"
            )
        return [visit for visit in choice if visit < num_visits] or list(range(num_visits))


def _keys(names: Sequence[str]) -> str:
    """`a` has, `a`, `b` have."""
    return ", ".join(f"`{name}`" for name in names) + (" has" if len(names) == 1 else " have")
