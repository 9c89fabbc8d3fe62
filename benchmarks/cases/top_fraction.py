"""The exact best 30 % of a score table, ties going to the smaller uid: our cut against Polars and Ray Data.

All three end with the last row that is kept. That the cut keeps those rows and no others is checked afterwards.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from benchmarks.measure import Pairs, Run, run_pairs
from benchmarks.record import Line, Target
from benchmarks.scale.tables import put_scores
from benchmarks.scale.uids import Uids
from benchmarks.workplace import engine, frame, paths, ray_data_as_it_comes, scratch
from pipeline.artifact import Artifact
from pipeline.engine import Engine
from stages.binarize_config import Voter
from stages.binarize_fit import VoterFit, fit_voters
from stages.binarize_values import VoterScores
from stages.kernels.radix import top_count

FRACTION = 0.3


class _Size(NamedTuple):
    rows: int
    bits: int
    pairs: int
    ray_rows: int
    """As many as Ray Data sorts in time for the pairs."""
    ray_bits: int
    ray_pairs: int


_SIZES = {
    "short": _Size(8_000_000, 3, 2, 2_000_000, 1, 1),
    "full": _Size(100_000_000, 6, 10, 8_000_000, 2, 10),
}
_Last = tuple[float, int, int]
"""Score and uid."""
_VOTER = Voter("selector", 0, "top_fraction", FRACTION, "scored", "raw", 0.0)
_ORDER = ["score", "uid_hi", "uid_lo"]


def measure(form: str) -> list[Line]:
    """Two lines."""
    size = _SIZES[form]
    what = "exact top fraction"
    with engine() as ours:
        kept, pairs = _compare(ours, _polars, size.rows, size.bits, size.pairs)
        lines = [
            Line(what, "one-process Polars", pairs.slowdown(), Target(2.5, "lower"), len(pairs), kept, pairs.seconds())
        ]
        kept, pairs = _compare(ours, _ray_data, size.ray_rows, size.ray_bits, size.ray_pairs)
        facts = {"growth": "Ray Data sorts all rows, our cut has a fixed cost: with more rows the ratio is larger"}
        against, target = "Ray Data sort().limit(), at the size given", Target(10, "higher")
        return [
            *lines,
            Line(f"{what}, times faster", against, pairs.speedup(), target, len(pairs), kept, pairs.seconds(), facts),
        ]


def _compare(
    ours: Engine, theirs: Callable[[Sequence[str], int], _Last], num_rows: int, num_bits: int, num_pairs: int
) -> tuple[dict[str, int], Pairs]:
    """Exact counts, and pairs of our cut with another way to the last row that is kept."""
    kept = {"rows": num_rows, "kept": top_count(FRACTION, num_rows)}
    with scratch() as folder:
        table = put_scores(folder / "selector", Uids(num_rows), num_bits)
        fits: list[VoterFit] = []
        lasts: list[_Last] = []

        def radix() -> Run:
            begun = time.perf_counter()
            fits[:] = _ours(ours, table)
            return Run(time.perf_counter() - begun, {**kept, "rows": fits[0].scored})

        def other() -> Run:
            begun = time.perf_counter()
            lasts[:] = [theirs(paths(table), kept["kept"])]
            return Run(time.perf_counter() - begun, kept)

        pairs = run_pairs(radix, other, num_pairs)
        _check(table, fits[0], lasts[0], kept["kept"])
    return kept, pairs


def _ours(ours: Engine, table: Artifact) -> list[VoterFit]:
    bits = int(table.summary["bucket_bits"])
    return fit_voters(ours, {"selector": table}, [_VOTER], num_buckets=1 << bits, pool_rows=table.summary["rows"])


def _polars(files: Sequence[str], k: int) -> _Last:
    """Select the k-th score, then look only at the rows that tie with it: faster than `top_k` by all three columns."""
    scan = pl.scan_parquet(files)
    score = scan.select("score").collect()["score"]
    threshold = float(score.top_k(k).min())  # type: ignore[arg-type]
    above = int((score > threshold).sum())
    tied = scan.filter(pl.col("score") == threshold).select("uid_hi", "uid_lo").collect().sort("uid_hi", "uid_lo")
    return (threshold, *tied.row(k - above - 1))


def _ray_data(files: Sequence[str], k: int) -> _Last:
    import ray.data

    with ray_data_as_it_comes():
        best = ray.data.read_parquet(list(files)).select_columns(_ORDER)
        best = best.sort(_ORDER, descending=[True, False, False]).limit(k)
        rows = best.map_batches(_last, batch_format="pyarrow", batch_size=None).take_all()
    worst = min(rows, key=lambda row: (row["score"], -row["uid_hi"], -row["uid_lo"]))
    return worst["score"], worst["uid_hi"], worst["uid_lo"]


def _last(batch: pa.Table) -> pa.Table:
    return batch.slice(batch.num_rows - 1)


def _check(table: Artifact, fit: VoterFit, last: _Last, k: int) -> None:
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
