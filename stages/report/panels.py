"""Charts with their captions: spread of scores, retention, learning curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from stages.report import charts
from stages.report.charts import Layer, Line
from stages.report.curves import read_history, thinned
from stages.report.evaluations import METRICS
from stages.report.survey import Histogram, Survey, Tally
from stages.report.view import MISMATCHED, NUM_LABELS, P_KEEP

MAX_VISITS = 6
"""Visits shown of a source with more: the first, the last and some between."""
_CURVES = {
    "loss": "contrastive loss",
    "effective_batch": "effective share of the batch",
    "learning_rate": "learning rate",
    "temperature": "temperature of the weights",
    "direction_norm": "distance to the reference",
    "logit_scale": "logit scale",
}


@dataclass(frozen=True)
class Panel:
    """A chart with its title and, where there are several colours, a legend."""

    title: str
    chart: Markup
    legend: Sequence[tuple[str, str]] = ()
    """(style class, name)."""


@dataclass(frozen=True)
class Spread:
    """The histograms of one source with several visits, or of all that have one."""

    names: Sequence[str]
    panels: Sequence[Panel]
    left_out: int
    """Visits that are not shown."""


def spreads(survey: Survey, has_truth: bool) -> list[Spread]:
    """Histograms by source, one a visit, kept and dropped (and mismatched, where known) told apart."""
    found = []
    single = Spread([], [], 0)
    for name in survey.tally.means:
        visits = sorted(visit for source, visit in survey.histograms if source == name)
        chosen = sorted({visits[round(i)] for i in np.linspace(0, len(visits) - 1, min(MAX_VISITS, len(visits)))})
        panels = []
        for visit in chosen:
            histogram = survey.histograms[name, visit]
            title = name if len(visits) == 1 else f"{name}, visit {visit + 1} of {len(visits)}"
            panels.append(_spread(title.replace("_", " ").replace("p keep", "p_keep"), histogram, has_truth))
        if len(visits) == 1:
            single = Spread([*single.names, name], [*single.panels, *panels], 0)
        elif visits:
            found.append(Spread([name], panels, len(visits) - len(chosen)))
    return [*found, single] if single.names else found


def _spread(title: str, histogram: Histogram, has_truth: bool) -> Panel:
    cells = histogram.counts.reshape(-1, 2, NUM_LABELS)  # [bar, dropped or kept, label]
    mismatched = cells[:, :, MISMATCHED]
    fine = cells.sum(axis=2) - mismatched
    if has_truth:
        layers = [
            _layer("dropped, mismatched", "bad", mismatched[:, 0]),
            _layer("kept, mismatched", "worse", mismatched[:, 1]),
            _layer("dropped, other", "dropped", fine[:, 0]),
            _layer("kept, other", "kept", fine[:, 1]),
        ]
    else:
        layers = [_layer("dropped", "dropped", fine[:, 0]), _layer("kept", "kept", fine[:, 1])]
    span = f"{charts.number(histogram.low)} to {charts.number(histogram.high)}"
    label = f"Histogram of {title} over {int(cells.sum()):,} values from {span}"
    chart = charts.histogram(histogram.low, histogram.high, layers, label=label, axis="score")
    return Panel(title, chart, [(layer.css, layer.name) for layer in layers])


def _layer(name: str, css: str, counts: NDArray[np.int64]) -> Layer:
    return Layer(name, css, counts.tolist())


def deciles(tally: Tally, has_truth: bool, parts: int = 10) -> list[Panel]:
    """By source: the share that was kept in each tenth of its scores, worst first."""
    panels = []
    for name, bins in tally.means.items():
        if bins.total < parts:
            continue
        slices = bins.by_share(parts).reshape(parts, 2, NUM_LABELS)
        kept = slices[:, 1].sum(axis=1) / np.maximum(slices.sum(axis=(1, 2)), 1e-9)
        titles = [_decile_title(i, share, slices[i], has_truth) for i, share in enumerate(kept.tolist())]
        title = name.replace("_", " ") if name != P_KEEP else name
        label = f"Share kept by tenth of {title}: " + ", ".join(f"{share:.0%}" for share in kept)
        chart = charts.bars(
            kept.tolist(),
            css="kept",
            label=label,
            axis="tenth of the scores, lowest to highest",
            names=[str(i + 1) for i in range(parts)],
            titles=titles,
        )
        panels.append(Panel(title, chart))
    return panels


def _decile_title(index: int, kept: float, cells: NDArray[np.float64], has_truth: bool) -> str:
    text = f"tenth {index + 1}: {kept:.1%} kept"
    judged = cells[:, 1:].sum()
    if has_truth and judged > 0:
        text += f", {cells[:, MISMATCHED].sum() / judged:.1%} mismatched"
    return text


def curves(trainings: Mapping[str, Artifact], evaluation: Mapping[str, Any] | None) -> list[Panel]:
    """Learning curves of the scored training, losses of the others, zero-shot accuracy by epoch."""
    panels = []
    for place, (name, artifact) in enumerate(trainings.items()):
        history = read_history(artifact, ["step", *_CURVES, "score_q10", "score_q50", "score_q90"])
        if history is None:
            continue
        for column, title in _CURVES.items() if place == 0 else [("loss", _CURVES["loss"])]:
            points = thinned(history, column)
            if points:
                ends = f"from {charts.number(points[0][1])} to {charts.number(points[-1][1])}"
                label = f"{title} of {name} over {len(points)} points, {ends}"
                chart = charts.lines([Line(title, "first", points)], label=label, axis="step")
                panels.append(Panel(f"{name}: {title}", chart))
        scores = [
            Line(f"{quantile}th percentile", css, thinned(history, f"score_q{quantile}"))
            for quantile, css in ((90, "kept"), (50, "first"), (10, "bad"))
        ]
        if all(line.points for line in scores):
            chart = charts.lines(scores, label=f"Quantiles of the scores of {name} by step", axis="step")
            panels.append(Panel(f"{name}: scores in a batch", chart, [(line.css, line.name) for line in scores]))
    return panels + (_by_epoch(evaluation) if evaluation else [])


def _by_epoch(evaluation: Mapping[str, Any]) -> list[Panel]:
    """The main metric of each data set, for models that were evaluated at several epochs."""
    main = {name: kind["main_metric"] for name, kind in evaluation["summary"].get("data_sets", {}).items()}
    results = [row for row in evaluation["results"] if main.get(row["dataset"], row["metric"]) == row["metric"]]
    panels = []
    styles = ("first", "second", "third", "fourth")
    for dataset, metric in sorted({(row["dataset"], row["metric"]) for row in results}):
        rows = [row for row in results if (row["dataset"], row["metric"]) == (dataset, metric)]
        models = sorted({row["model"] for row in rows})
        series: list[Line] = []
        for model in models:
            own = [row for row in rows if row["model"] == model and row.get("epoch") is not None]
            points = sorted((float(row["epoch"]) + 1, float(row["value"])) for row in own)
            if len(points) > 1:
                series.append(Line(model, styles[len(series) % len(styles)], points))
        if series:
            title = f"{METRICS.get(metric, metric)} on {dataset}".replace("_", " ")
            chart = charts.lines(series, label=f"{title} by epoch", axis="epochs trained")
            panels.append(Panel(title, chart, [(line.css, line.name) for line in series]))
    return panels
