"""Figures of the evaluation as people read them: the latest of each model, and what guessing would give."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

METRICS = {"acc1": "zero-shot accuracy", "acc5": "zero-shot accuracy, top 5"}
"""Metrics whose names say too little."""

Metric = tuple[str, str]
"""Data set, name of the metric."""

_TOP = {"acc1": 1, "mean_per_class_recall": 1, "acc5": 5}
"""Answers of which one must be right."""
_ACCURACIES = ("acc1", "mean_per_class_recall")
_MOST_SETS = 3
_NEAR_GUESSING = 1.25
"""Times what guessing gives, up to which a figure says nothing: 2.5 points on ten classes, two deviations of 600."""


def latest_metrics(results: list[Mapping[str, Any]]) -> dict[str, dict[Metric, float]]:
    """By model: the metrics of its final weights, or of its last epoch where those were not evaluated."""
    latest: dict[str, dict[Metric, float]] = {}
    for row in sorted(results, key=_epoch):
        latest.setdefault(row["model"], {})[row["dataset"], row["metric"]] = row["value"]
    return latest


def in_order(metrics: Iterable[Metric]) -> list[Metric]:
    """By data set and name, numbers as numbers: recall@5 before recall@10."""
    return sorted(
        set(metrics), key=lambda metric: [(part.zfill(9), part) for part in re.split(r"(\d+)", "\0".join(metric))]
    )


def guessing(evaluation: Mapping[str, Any], metric: Metric) -> float | None:
    """What a model without knowledge reaches on average; None where that is not known."""
    classes = evaluation.get("summary", {}).get("data_sets", {}).get(metric[0], {}).get("classes")
    return min(1.0, _TOP[metric[1]] / classes) if classes and metric[1] in _TOP else None


def evaluation_line(evaluation: Mapping[str, Any] | None) -> str:
    """How well the final models do, in one sentence or two; says so where they only guess."""
    latest = latest_metrics(evaluation["results"]) if evaluation else {}
    if not evaluation or not latest:
        return "No model was evaluated."
    shown = _shown(evaluation, latest)
    name = METRICS.get(shown[0][1], shown[0][1].replace("_", " "))
    if len(shown) > _MOST_SETS:
        text = f"Evaluation ({name}, mean of {len(shown)} data sets): {_listed(_mean(latest, shown))}"
        gains = [("", _mean(latest, shown))]
    else:
        text = f"Evaluation ({name}): " + "; ".join(_of_one_set(evaluation, latest, metric) for metric in shown)
        gains = [(f" on {metric[0]}", _values(latest, metric)) for metric in shown]
    compared = [
        (where, values["kept"] - values["random"]) for where, values in gains if {"kept", "random"} <= set(values)
    ]
    if compared:
        differences = ", ".join(f"{difference * 100:+.1f} points{where}" for where, difference in compared)
        text += f". Trained on the kept subset against a random one: {differences}"
    return text + "."


def _shown(evaluation: Mapping[str, Any], latest: Mapping[str, Mapping[Metric, float]]) -> list[Metric]:
    """The accuracy by which each classification set is judged; without any such set the first metric there is."""
    every = in_order(metric for metrics in latest.values() for metric in metrics)
    main = {name: kind["main_metric"] for name, kind in evaluation.get("summary", {}).get("data_sets", {}).items()}
    wanted = [metric for metric in every if metric[1] in _ACCURACIES]
    judged = [metric for metric in wanted if main.get(metric[0], "acc1") == metric[1]]
    return judged or wanted[:1] or every[:1]


def _of_one_set(evaluation: Mapping[str, Any], latest: Mapping[str, Mapping[Metric, float]], metric: Metric) -> str:
    values = _values(latest, metric)
    chance = guessing(evaluation, metric)
    text = f"on {metric[0]} {_listed(values)}"
    if chance is None:
        return text
    if max(values.values()) <= _NEAR_GUESSING * chance:
        return f"{text}, no better than guessing ({chance:.1%})"
    return f"{text} (guessing gives {chance:.1%})"


def _values(latest: Mapping[str, Mapping[Metric, float]], metric: Metric) -> dict[str, float]:
    return {model: metrics[metric] for model, metrics in latest.items() if metric in metrics}


def _mean(latest: Mapping[str, Mapping[Metric, float]], metrics: list[Metric]) -> dict[str, float]:
    whole = {model: found for model, found in latest.items() if all(metric in found for metric in metrics)}
    return {model: sum(found[metric] for metric in metrics) / len(metrics) for model, found in whole.items()}


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{model} {value:.1%}" for model, value in sorted(values.items(), key=lambda item: -item[1]))


def _epoch(row: Mapping[str, Any]) -> float:
    """Final weights have no epoch and come last."""
    return float("inf") if row.get("epoch") is None else float(row["epoch"])
