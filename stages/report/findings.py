"""Five lines of plain language: what came of a run, for the terminal and the head of the page."""

from collections.abc import Mapping
from typing import Any

from stages.report.evaluations import evaluation_line

_BASELINE_ORDER = ("loss", "clip_score", "reference_clip_score")


def findings(summary: Mapping[str, Any]) -> list[str]:
    """Exactly five lines: flow, scores against truth or coverage, reference, label model, evaluation.

    Args:
        summary: as in `summary.json`.
    """
    return [
        _flow(summary),
        _scores(summary) + _grown(summary),
        _reference(summary),
        _label_model(summary),
        evaluation_line(summary["evaluation"]),
    ]


def _flow(summary: Mapping[str, Any]) -> str:
    pool, select = summary["pool"], summary["select"]
    seen, dropped = pool["samples"], sum(select["dropped"].values())
    text = (
        f"{seen:,} samples came in: {select['kept']:,} kept ({_percent(select['kept'], seen)}), "
        f"{dropped:,} dropped, {pool['quarantined']:,} quarantined{_main_reason(pool['quarantine_reasons'])}."
    )
    if pool["missing"]:
        text += f" {pool['missing']:,} rows of the metadata have no sample."
    return text


def _scores(summary: Mapping[str, Any]) -> str:
    truth = summary.get("truth")
    scores = summary["scores"]
    covered = f"scores cover {scores['coverage']:.1%} of the usable samples"
    if not truth:
        names = ", ".join(scores["by_selector"])
        return f"No truth is known, so nothing is said about quality; {covered} (selectors: {names})."
    areas = {key.removesuffix("_auc"): area for key, area in truth.items() if key.endswith("_auc") and area is not None}
    if not areas:
        return f"Truth is known for no scored sample of both kinds; {covered}."
    p_keep = areas.pop("p_keep", None)
    text = "Telling mismatched captions from others (1 is perfect, .5 is chance): " + _ranking(areas)
    if p_keep is not None:
        text += f"; the decision p_keep {_area(p_keep)}"
    kept, pool = truth["kept_clean_share"], truth["pool_clean_share"]
    if kept is not None and pool is not None:
        text += f". Clean samples: {kept:.1%} of the kept ones against {pool:.1%} of the pool ({_points(kept - pool)})"
    return text + "."


def _grown(summary: Mapping[str, Any]) -> str:
    """What was not trained on, where the training is an earlier run's."""
    passes = summary["scores"]["by_selector"].get("mimic", {}).get("passes")
    if not passes:
        return ""
    rows = sum(each["rows"] for each in passes[1:])
    return f" Training is that of an earlier run; {rows:,} samples that came later were scored by its model alone."


def _ranking(areas: Mapping[str, float]) -> str:
    """Mimic first, then the baselines; the best one is named, whoever it is."""
    known = [name for name in ("mimic", *_BASELINE_ORDER) if name in areas]
    names = known + sorted(set(areas) - set(known))
    listed = ", ".join(f"{_title(name)} {_area(areas[name])}" for name in names)
    best = max(names, key=lambda name: areas[name])
    return f"{listed}; best is {_title(best)}" if len(names) > 1 else listed


def _reference(summary: Mapping[str, Any]) -> str:
    reference = summary["reference"]
    if reference is None:
        return "No reference was used."
    meaning = {
        "informative": "its scores foretell where it does better",
        "uninformative": "its scores say next to nothing: distrust the selection",
        "inverted": "its scores point the wrong way: do not use the selection",
    }.get(reference["verdict"], "")
    return (
        f"The reference is {reference['verdict']}: rank correlation of score and loss drop "
        f"{reference['spearman']:.2f} on {reference['samples']:,} samples; {meaning}."
    )


def _label_model(summary: Mapping[str, Any]) -> str:
    model = summary["label_model"]
    voters = model["voters"]
    text = f"{_METHODS.get(model['method'], model['method'])} decided over {len(voters)} voters"
    learned = [voter for voter in voters if voter.get("accuracy") is not None]
    if learned:
        best = max(learned, key=lambda voter: voter["accuracy"])
        worst = min(learned, key=lambda voter: voter["accuracy"])
        text += (
            f"; it takes {best['name']} to be right most often ({best['accuracy']:.0%}) "
            f"and {worst['name']} least ({worst['accuracy']:.0%})"
        )
    if model["retention"] is not None:
        text += f"; {model['retention']:.1%} of the samples are more likely good than not"
    return text + "."


_METHODS = {"label_model": "A label model", "majority": "A majority of votes", "mean_score": "The mean score"}


def _main_reason(reasons: Mapping[str, int]) -> str:
    if not reasons:
        return ""
    shown = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:2]
    parts = [f"{number:,} {reason.replace('_', ' ')}" for reason, number in shown]
    others = sum(reasons.values()) - sum(number for _, number in shown)
    return f" ({', '.join([*parts, f'{others:,} other'] if others else parts)})"


def _title(name: str) -> str:
    return name.replace("_", " ")


def _area(area: float) -> str:
    return f"{area:.3f}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _points(difference: float) -> str:
    return f"{difference * 100:+.1f} points"
