"""The page: one HTML file without scripts or outside references; every text from the pool is escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stages.report import panels
from stages.report.evaluations import METRICS, guessing, in_order, latest_metrics
from stages.report.findings import findings
from stages.report.gallery import Shown, Wish
from stages.report.panels import Panel
from stages.report.pictures import Picture
from stages.report.survey import Survey


@dataclass(frozen=True)
class Card:
    """A sample in a gallery."""

    shown: Shown
    picture: Picture
    ills: Sequence[str]
    true_caption: str | None


@dataclass(frozen=True)
class Gallery:
    """Samples chosen by one wish."""

    wish: Wish
    cards: Sequence[Card]


@dataclass(frozen=True)
class WorstShard:
    """A shard that lost samples to quarantine."""

    path: str
    quarantined: int
    seen: int
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Content:
    """What is put on the page."""

    title: str
    facts: Mapping[str, Any]
    survey: Survey
    curves: Sequence[Panel]
    galleries: Sequence[Gallery]
    worst_shards: Sequence[WorstShard]
    has_truth: bool


def render(content: Content) -> bytes:
    """The page as UTF-8."""
    environment = Environment(
        loader=PackageLoader("stages.report", "."),
        autoescape=True,  # captions are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": _count,
        "percent": _percent,
        "words": _words,
        "figure": _figure,
        "seconds": _seconds,
    }
    facts = content.facts
    page = environment.get_template("page.html").render(
        content=content,
        facts=facts,
        style=Markup(files("stages.report").joinpath("style.css").read_text()),  # noqa: S704  # our own file
        findings=findings(facts),
        flow=_flow(facts),
        spreads=panels.spreads(content.survey, content.has_truth),
        deciles=panels.deciles(content.survey.tally, content.has_truth),
        evaluation=_evaluation(facts),
        areas=_areas(facts),
        total_seconds=sum(facts["seconds"].values()),
    )
    return page.encode()


@dataclass(frozen=True)
class Stream:
    """One way that samples went."""

    name: str
    css: str
    samples: int
    share: float
    reasons: Sequence[tuple[str, int]]


def _flow(facts: Mapping[str, Any]) -> list[Stream]:
    pool, select = facts["pool"], facts["select"]
    seen = max(1, pool["samples"])
    parts = [
        ("kept", "kept", select["kept"], {}),
        ("dropped", "dropped", sum(select["dropped"].values()), select["dropped"]),
        ("quarantined", "quarantined", pool["quarantined"], pool["quarantine_reasons"]),
    ]
    return [
        Stream(name, css, samples, samples / seen, sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
        for name, css, samples, reasons in parts
    ]


def _areas(facts: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Areas under the curve, best first."""
    truth = facts.get("truth") or {}
    found = [
        (key.removesuffix("_auc"), area) for key, area in truth.items() if key.endswith("_auc") and area is not None
    ]
    return sorted(found, key=lambda item: -item[1])


@dataclass(frozen=True)
class Figures:
    """One metric of one data set."""

    dataset: str
    metric: str
    guessing: float | None
    values: Sequence[float | None]
    """One a model."""


def _evaluation(facts: Mapping[str, Any]) -> tuple[list[str], list[Figures]]:
    """Names of the models, and a row for each metric of each data set."""
    evaluation = facts["evaluation"] or {"results": []}
    latest = latest_metrics(evaluation["results"])
    metrics = in_order(metric for values in latest.values() for metric in values)
    models = sorted(latest)
    rows = [
        Figures(*metric, guessing(evaluation, metric), [latest[model].get(metric) for model in models])
        for metric in metrics
    ]
    return models, rows


_NONE = "\N{EN DASH}"


def _count(value: float | None) -> str:
    return _NONE if value is None else f"{value:,}"


def _percent(share: float | None, digits: int = 1) -> str:
    return _NONE if share is None else f"{share:.{digits}%}"


def _words(name: str) -> str:
    return METRICS.get(name, name).replace("_", " ").replace("p keep", "p_keep")


def _figure(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus zero


def _seconds(value: float) -> str:
    if round(value, 1) < 60:
        return f"{value:.1f} s"
    if round(value / 60, 1) < 60:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"
