"""`summary.json`: every figure of the page, for machines."""

from collections.abc import Mapping
from typing import Any

from pipeline.artifact import Artifact
from stages.report.curves import last_row
from stages.report.survey import Tally
from stages.report.view import P_KEEP

MIMIC = "mimic"


def collect(
    inputs: Mapping[str, Artifact], tally: Tally, aucs: Mapping[str, float | None] | None, seed: int
) -> dict[str, Any]:
    """All figures, nested by subject.

    Args:
        inputs: the report's input artifacts by role.
        tally: what was counted.
        aucs: by source, where truth is known.
        seed: of the run.
    """
    pool = inputs["pool"].summary
    facts: dict[str, Any] = {
        "run": _run(inputs, seed),
        "pool": {
            "samples": pool["samples"],
            "usable": pool["usable"],
            "quarantined": pool.get("quarantined", 0),
            "quarantine_reasons": dict(pool.get("quarantine_reasons", {})),
            "missing": pool.get("missing", 0),
            "normalised": dict(pool.get("normalised", {})),
        },
        "scores": _scores(inputs, tally),
        "select": _select(inputs),
        "label_model": _label_model(inputs["decisions"].summary),
        "train": {role.split("/", 1)[1]: _training(artifact) for role, artifact in _trainings(inputs).items()},
        "reference": _reference(inputs.get("reference")),
        "evaluation": _evaluation(inputs.get("evaluation")),
        "shards": dict(inputs["shards"].summary) if "shards" in inputs else None,
        "seconds": seconds_by_stage(inputs),
    }
    facts["train"] = {**facts["train"].pop(MIMIC, {}), "phases": facts["train"]}
    if aucs is not None:
        facts["truth"] = _truth(tally, aucs)
    return facts


def seconds_by_stage(inputs: Mapping[str, Artifact]) -> dict[str, float]:
    """How long each input took to make, as its manifest says."""
    found = {role: artifact.manifest.made_by.get("seconds") for role, artifact in inputs.items()}
    return {role: float(seconds) for role, seconds in found.items() if seconds is not None}


def trainings(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Training artifacts by name, the scored one first."""
    found = {role.split("/", 1)[1]: artifact for role, artifact in _trainings(inputs).items()}
    return dict(sorted(found.items(), key=lambda item: (item[0] != MIMIC, item[0])))


def _trainings(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    return {role: artifact for role, artifact in inputs.items() if role.startswith("training/")}


def _run(inputs: Mapping[str, Artifact], seed: int) -> dict[str, Any]:
    versions: dict[str, str] = {}
    for artifact in inputs.values():
        versions |= artifact.manifest.made_by.get("versions", {})
    return {
        "seed": seed,
        "fingerprints": {role: artifact.manifest.fingerprint[:16] for role, artifact in sorted(inputs.items())},
        "versions": versions,
    }


def _scores(inputs: Mapping[str, Artifact], tally: Tally) -> dict[str, Any]:
    usable = inputs["pool"].summary["usable"]
    selectors = {}
    for name, bins in tally.means.items():
        if name != P_KEEP:
            summary = inputs[f"scores/{name}"].summary
            selectors[name] = {
                "coverage": bins.total / max(1, usable),
                "scored": bins.total,
                "rows": summary["rows"],
                "visits": summary["visits"],
                "passes": summary.get("passes"),
                "by_visit": [tally.values[name, visit].total for visit in range(summary["visits"])],
            }
    main = selectors.get(MIMIC) or max(selectors.values(), key=lambda entry: entry["coverage"], default=None)
    return {"coverage": main["coverage"] if main else 0.0, "by_selector": selectors}


def _select(inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    summary = inputs["subset"].summary
    samples = inputs["pool"].summary["samples"]
    return {
        "kept": summary["kept"],
        "dropped": dict(summary["dropped"]),
        "kept_share": summary["kept"] / max(1, samples),
        "rule": summary.get("rule_text") or summary.get("rule"),
        "unscored": summary.get("unscored"),
        "excluded": summary.get("excluded"),
    }


def _label_model(decisions: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("method", "prior", "patterns", "final_loss", "retention")
    return {**{key: decisions.get(key) for key in keys}, "voters": list(decisions.get("voters", []))}


def _training(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    last = last_row(artifact)
    keys = ("method", "epochs", "steps", "batch_size", "world_size", "lanes", "samples_seen", "mimicked", "init")
    return {
        **{key: summary.get(key) for key in keys},
        "final_loss": last.get("loss"),
        "effective_batch": last.get("effective_batch"),
        "temperature": last.get("temperature"),
        "checks": artifact.read_json("checks.json") if artifact.files("checks.json") else [],
    }


def _reference(artifact: Artifact | None) -> dict[str, Any] | None:
    if artifact is None:
        return None
    return {**dict(artifact.summary), **artifact.read_json("check.json")}


def _evaluation(artifact: Artifact | None) -> dict[str, Any] | None:
    if artifact is None:
        return None
    return {"summary": dict(artifact.summary), "results": artifact.read_json("results.json")}


def _truth(tally: Tally, aucs: Mapping[str, float | None]) -> dict[str, Any]:
    dropped, kept = tally.clean.tolist()
    pool = [dropped[0] + kept[0], dropped[1] + kept[1]]
    return {
        **{f"{name}_auc": area for name, area in aucs.items()},
        "kept_clean_share": _share(kept),
        "pool_clean_share": _share(pool),
        "judged": sum(pool),
    }


def _share(ill_and_clean: list[int]) -> float | None:
    ill, clean = ill_and_clean
    return clean / (ill + clean) if ill + clean else None
