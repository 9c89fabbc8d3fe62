"""A training's ledger to decisions: gather and compact, vote, aggregate; against Polars and Ray Data's groupby.

Polars makes the same decisions from the ledger in one process, and Ray Data by its own operations, both without the
compacted score table that ours leaves. Ray Data's groupby alone, which only averages by uid, is a part of the work.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks import ray_decisions
from benchmarks.measure import Run, in_fresh_process, run_pairs
from benchmarks.record import Line, Target
from benchmarks.scale.ledgers import put_ledger
from benchmarks.scale.tables import put_pool
from benchmarks.scale.uids import Uids
from benchmarks.workplace import data_stages, engine, frame, paths, ray_data_as_it_comes, run_stage, scratch
from pipeline.artifact import Artifact
from pipeline.engine import Engine
from pipeline.rates import RatesConfig
from pipeline.stage import Size
from stages.kernels.label_model import FitSettings, fit_label_model
from stages.kernels.patterns import count_votes
from stages.kernels.radix import top_count

FRACTION = 0.3
_STAGES = ("gather", "binarize", "aggregate")
_TOLERANCE = 1e-6
_RATES = RatesConfig().model_dump()
_UID = ["uid_hi", "uid_lo"]


class _Size(NamedTuple):
    samples: int
    visits: int
    bits: int
    pairs: int
    ray_samples: int
    ray_pairs: int
    whole: bool
    """Also the memory of both, and Ray Data's `groupby` alone."""


_SIZES = {
    "short": _Size(400_000, 5, 1, 2, 20_000, 1, False),
    "full": _Size(4_000_000, 5, 2, 10, 1_000_000, 10, True),
}


def measure(form: str) -> Iterator[Line]:
    """Three lines, two in the short form."""
    size = _SIZES[form]
    with engine() as ours:
        with scratch() as folder:
            yield _against_polars(size, ours, folder)
        with scratch() as folder:
            yield from _against_ray_data(size, ours, folder)


def _against_polars(size: _Size, ours: Engine, folder: Path) -> Line:
    inputs = _inputs(size.samples, size, folder)
    counts = {"samples": size.samples, "rows": size.samples * size.visits}
    results: dict[str, pl.DataFrame] = {}

    def stages() -> Run:
        run, results["ours"] = _timed(ours, inputs)
        return run

    def polars() -> Run:
        with scratch() as out:
            begun = time.perf_counter()
            num_rows = _polars(paths(inputs["training"], "ledger/"), size.visits, out / "decisions.parquet")
            seconds = time.perf_counter() - begun
            results["theirs"] = pl.read_parquet(out / "decisions.parquet")
            return Run(seconds, {"samples": len(results["theirs"]), "rows": num_rows})

    pairs = run_pairs(stages, polars, size.pairs)
    assert pairs.ours[0].counts == counts, f"ours gave {dict(pairs.ours[0].counts)}, expected {counts}"
    apart = _apart(results["ours"], results["theirs"])
    facts: dict[str, Any] = {"largest_difference_of_p_keep": apart}
    if size.whole:
        ledger = paths(inputs["training"], "ledger/")
        _, alone = in_fresh_process(_alone, inputs, folder / "alone")
        _, whole = in_fresh_process(_polars, ledger, size.visits, folder / "whole.parquet")
        facts |= {
            "peak_bytes_of_one_task_and_driver": alone.peak_bytes,
            "planned_peak_task_bytes": _planned(counts["rows"], size.samples),
            "polars_peak_bytes": whole.peak_bytes,
        }
    return Line(
        "ledger to decisions, compaction included",
        "one-process Polars, without compaction",
        pairs.slowdown(),
        Target(3, "lower"),
        len(pairs),
        counts,
        pairs.seconds(),
        facts,
    )


def _against_ray_data(size: _Size, ours: Engine, folder: Path) -> Iterator[Line]:
    inputs = _inputs(size.ray_samples, size, folder)
    ledger = paths(inputs["training"], "ledger/")
    counts = {"samples": size.ray_samples, "rows": size.ray_samples * size.visits}
    results: dict[str, pl.DataFrame] = {}

    def stages() -> Run:
        run, results["ours"] = _timed(ours, inputs)
        return run

    def the_same() -> Run:
        with scratch() as out, ray_data_as_it_comes():
            begun = time.perf_counter()
            num_rows = ray_decisions.decide(ledger, size.visits, FRACTION, out / "decisions")
            seconds = time.perf_counter() - begun
            found = pl.read_parquet(out / "decisions").sort(_UID)
            results["theirs"] = found.with_columns(pl.col("pattern").cast(pl.UInt64))
            return Run(seconds, {"samples": len(found), "rows": num_rows})

    def alone() -> Run:
        with ray_data_as_it_comes():
            begun = time.perf_counter()
            num_samples, num_rows = ray_decisions.group_alone(ledger)
            return Run(time.perf_counter() - begun, {"samples": num_samples, "rows": num_rows})

    what, target = "ledger to decisions, compaction included, times faster", Target(10, "higher")
    warm_up = int(size.ray_pairs > 1)
    pairs = run_pairs(stages, the_same, size.ray_pairs, warm_up=warm_up)
    assert pairs.ours[0].counts == counts, f"ours gave {dict(pairs.ours[0].counts)}, expected {counts}"
    facts = {"largest_difference_of_p_keep": _apart(results["ours"], results["theirs"])}
    against = "Ray Data to the same decisions, at the size given"
    yield Line(what, against, pairs.speedup(), target, len(pairs), counts, pairs.seconds(), facts)
    if not size.whole:
        return
    pairs = run_pairs(stages, alone, size.ray_pairs, warm_up=warm_up)
    against = "Ray Data groupby(uid).mean(score) alone, at the size given"
    yield Line(what, against, pairs.speedup(), target, len(pairs), counts, pairs.seconds())


def _inputs(num_samples: int, size: _Size, folder: Path) -> dict[str, Artifact]:
    uids = Uids(num_samples)
    return {
        "training": put_ledger(folder / "training", uids, size.visits),
        "pool": put_pool(folder / "pool", uids, size.bits),
    }


def _ours(engine_: Engine, inputs: Mapping[str, Artifact], out: Path) -> Artifact:
    made = dict(inputs)
    for name in _STAGES:
        stage, makes, reads = data_stages()[name]
        made[makes] = run_stage(stage, out / name, makes, engine_, inputs={role: made[role] for role in reads})
    return made["decisions"]


def _timed(engine_: Engine, inputs: Mapping[str, Artifact]) -> tuple[Run, pl.DataFrame]:
    with scratch() as out:
        begun = time.perf_counter()
        made = _ours(engine_, inputs, out)
        seconds = time.perf_counter() - begun
        decisions = frame(made)
        return Run(seconds, {"samples": len(decisions), "rows": _scored(out)}), decisions


def _alone(inputs: Mapping[str, Artifact], out: Path) -> None:
    with engine("in_process") as here:
        _ours(here, inputs, out)


def _planned(num_rows: int, num_samples: int) -> int:
    """The largest of the three stages' bounds of a task."""
    sizes = {
        "training": Size(num_rows, 0),
        "pool": Size(num_samples, 0),
        "votes": Size(num_samples, 0),
        "scores/mimic": Size(num_rows, 0),
    }
    return max(data_stages()[name][0].plan(sizes, _RATES).peak_task_bytes for name in _STAGES)


def _scored(out: Path) -> int:
    return pl.scan_parquet(out / "gather" / "bucket-*.parquet").select(pl.len()).collect().item()


def _polars(ledger: list[str], num_visits: int, out: Path) -> int:
    """Rank within the batch, the best share of each visit, a pattern a sample, the same label model, by uid."""
    place = pl.col("score").rank("average").over("step")
    rows = (
        pl.scan_parquet(ledger)
        .select(*_UID, "visit", "step", "score")
        .with_columns(((place - 0.5) / pl.len().over("step")).cast(pl.Float32).alias("rank"))
        .select(*_UID, "visit", "rank")
        .collect()
    )
    visits = []
    for visit in range(num_visits):
        mine = rows.filter(pl.col("visit") == visit)
        k = top_count(FRACTION, mine.height)
        threshold = mine["rank"].top_k(k).min()
        above = int((mine["rank"] > threshold).sum())
        tied = mine.filter(pl.col("rank") == threshold).sort(_UID).select(_UID).row(k - above - 1)
        before = (pl.col("uid_hi") < tied[0]) | ((pl.col("uid_hi") == tied[0]) & (pl.col("uid_lo") <= tied[1]))
        keep = (pl.col("rank") > threshold) | ((pl.col("rank") == threshold) & before)
        digit = (keep.cast(pl.UInt64) + 1) * 3**visit
        visits.append(mine.select(*_UID, "rank", digit.alias("digit")))
    samples = pl.concat(visits).group_by(_UID).agg(pl.col("digit").sum(), pl.col("rank").cast(pl.Float64).mean())
    patterns = samples.group_by("digit").len().sort("digit")
    counts = count_votes(patterns["digit"].to_numpy(), patterns["len"].to_numpy().astype(np.int64), num_visits)
    prior = int(counts.votes[:, 1].sum()) / int(counts.votes.sum())
    p_keep = fit_label_model(counts, prior, FitSettings()).p_keep(patterns["digit"].to_numpy())
    decided = patterns.select("digit", pl.Series("p_keep", p_keep.astype(np.float32)))
    decisions = samples.join(decided, on="digit").rename({"digit": "pattern", "rank": "mean_score"}).sort(_UID)
    decisions.with_columns(pl.col("mean_score").cast(pl.Float32)).write_parquet(out, compression="zstd")
    return rows.height


def _apart(ours: pl.DataFrame, theirs: pl.DataFrame) -> float:
    """Largest difference of the probabilities; everything else must be equal."""
    for column in (*_UID, "pattern"):
        assert ours[column].equals(theirs[column]), f"{column} differs"
    for column in ("p_keep", "mean_score"):
        apart = float((ours[column] - theirs[column]).abs().max())  # type: ignore[arg-type]
        assert apart < _TOLERANCE, f"{column} differs by up to {apart}"
    return float((ours["p_keep"] - theirs["p_keep"]).abs().max())  # type: ignore[arg-type]
