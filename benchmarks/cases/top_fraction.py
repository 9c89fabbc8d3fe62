"""The exact best 30 % of a score table, ties going to the smaller uid: our cut against Polars and Ray Data.

All three end with the last row that is kept. That the cut keeps those rows and no others is checked afterwards.
"""

import time
from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from benchmarks.measure import Run, run_pairs
from benchmarks.record import Line, Target
from benchmarks.scale.tables import put_scores
from benchmarks.scale.uids import Uids
from benchmarks.workplace import engine, frame, paths, scratch
from pipeline.artifact import Artifact
from pipeline.engine import Engine
from stages.binarize_config import Voter
from stages.binarize_fit import VoterFit, fit_voters
from stages.binarize_values import VoterScores
from stages.kernels.radix import top_count

FRACTION = 0.3
_SIZES = {"short": (4_000_000, 2, 10, 2), "full": (100_000_000, 6, 10, 10)}
"""Rows, bucket bits, pairs with Polars, pairs with Ray Data."""
_VOTER = Voter("selector", 0, "top_fraction", FRACTION, "scored", "raw", 0.0)
_ORDER = ["score", "uid_hi", "uid_lo"]


def measure(form: str) -> list[Line]:
    """Two lines."""
    num_rows, num_bits, num_polars, num_ray = _SIZES[form]
    kept = {"rows": num_rows, "kept": top_count(FRACTION, num_rows)}
    with scratch() as folder, engine() as ours:
        table = put_scores(folder / "selector", Uids(num_rows), num_bits)
        fits: list[VoterFit] = []
        lasts: list[tuple[float, int, int]] = []

        def radix() -> Run:
            begun = time.perf_counter()
            fits[:] = _ours(ours, table)
            return Run(time.perf_counter() - begun, kept)

        def polars() -> Run:
            begun = time.perf_counter()
            lasts[:] = [_polars(paths(table), kept["kept"])]
            return Run(time.perf_counter() - begun, kept)

        def ray_data() -> Run:
            begun = time.perf_counter()
            lasts[:] = [_ray_data(paths(table), kept["kept"])]
            return Run(time.perf_counter() - begun, kept)

        by_polars = run_pairs(radix, polars, num_polars)
        _check(table, fits[0], lasts[0], kept["kept"])
        by_ray = run_pairs(radix, ray_data, num_ray)
        _check(table, fits[0], lasts[0], kept["kept"])
    what = "exact top fraction"
    polars_line = Line(
        what, "one-process Polars", by_polars.slowdown(), Target(2.5, "lower"), num_polars, kept, by_polars.seconds()
    )
    ray_line = Line(
        f"{what}, times faster",
        "Ray Data sort().limit()",
        by_ray.speedup(),
        Target(10, "higher"),
        num_ray,
        kept,
        by_ray.seconds(),
    )
    return [polars_line, ray_line]


def _ours(ours: Engine, table: Artifact) -> list[VoterFit]:
    bits = int(table.summary["bucket_bits"])
    return fit_voters(ours, {"selector": table}, [_VOTER], num_buckets=1 << bits, pool_rows=table.summary["rows"])


def _polars(files: Sequence[str], k: int) -> tuple[float, int, int]:
    """Select the k-th score, then look only at the rows that tie with it: faster than `top_k` by all three columns."""
    scan = pl.scan_parquet(files)
    score = scan.select("score").collect()["score"]
    threshold = float(score.top_k(k).min())  # type: ignore[arg-type]
    above = int((score > threshold).sum())
    tied = scan.filter(pl.col("score") == threshold).select("uid_hi", "uid_lo").collect().sort("uid_hi", "uid_lo")
    return (threshold, *tied.row(k - above - 1))


def _ray_data(files: Sequence[str], k: int) -> tuple[float, int, int]:
    import ray.data

    best = ray.data.read_parquet(list(files), columns=_ORDER).sort(_ORDER, descending=[True, False, False]).limit(k)
    rows = best.map_batches(_last, batch_format="pyarrow", batch_size=None).take_all()
    worst = min(rows, key=lambda row: (row["score"], -row["uid_hi"], -row["uid_lo"]))
    return worst["score"], worst["uid_hi"], worst["uid_lo"]


def _last(batch: pa.Table) -> pa.Table:
    return batch.slice(batch.num_rows - 1)


def _check(table: Artifact, fit: VoterFit, last: tuple[float, int, int], k: int) -> None:
    """The cut keeps the rows down to the other's last one, and no more."""
    rows = frame(table)
    assert fit.cut is not None
    scores = VoterScores(*(rows[name].to_numpy() for name in ("uid_hi", "uid_lo", "score")))
    ours = fit.cut.keeps(scores.keys)
    score, hi, lo = last
    before = (pl.col("uid_hi") < hi) | ((pl.col("uid_hi") == hi) & (pl.col("uid_lo") <= lo))
    theirs = rows.select((pl.col("score") > score) | ((pl.col("score") == score) & before)).to_series().to_numpy()
    assert (ours == theirs).all(), f"{int((ours != theirs).sum())} rows are kept by one and not by the other"
    assert int(ours.sum()) == k, f"{int(ours.sum())} rows are kept, expected {k}"
