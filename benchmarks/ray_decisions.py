"""A ledger's decisions by Ray Data's own operations, as one would write them who has it: the contender of our stages.

Every step is the quick one of its kind: ranks by whole batches, cuts from counts of distinct ranks instead of a sort,
votes as one number whose sum over a sample is its pattern. What goes through numpy are the kernels that our stages use.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from stages.kernels.label_model import FitSettings, fit_label_model
from stages.kernels.patterns import count_votes
from stages.kernels.radix import top_count
from stages.kernels.scale import batch_scales

_UID = ["uid_hi", "uid_lo"]
_WHOLE: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}


def group_alone(ledger: Sequence[str]) -> tuple[int, int]:
    """Mean score and number of rows by uid: samples and rows."""
    from ray.data.aggregate import Count, Mean

    means = _read(ledger, "score").groupby(_UID).aggregate(Mean("score"), Count(alias_name="visits")).materialize()
    return means.count(), int(means.sum("visits"))


def decide(ledger: Sequence[str], num_visits: int, fraction: float, out: Path) -> int:
    """Rank within the batch, the best share of each visit, a pattern a sample, the label model, Parquet; rows read."""
    from ray.data.aggregate import Mean, Sum

    scores = _read(ledger, "visit", "step", "score")
    ranked = scores.groupby("step").map_groups(_ranked, batch_format="pyarrow").materialize()
    places = _frame(ranked.groupby(["visit", "rank"]).count())
    ranks, num_tied_kept = _cuts(places, num_visits, fraction)
    tied = _frame(ranked.map_batches(_tied, fn_kwargs={"ranks": ranks}, **_WHOLE))
    lasts = _last_kept(tied, num_tied_kept)
    voted = ranked.map_batches(_voted, fn_kwargs={"ranks": ranks, "lasts": lasts}, **_WHOLE)
    sums = (Sum("pattern", alias_name="pattern"), Mean("rank", alias_name="mean_score"))
    samples = voted.groupby(_UID).aggregate(*sums).materialize()
    patterns = _frame(samples.groupby("pattern").count()).sort("pattern")
    distinct = patterns["pattern"].to_numpy().astype(np.uint64)
    counts = count_votes(distinct, patterns["count()"].to_numpy().astype(np.int64), num_visits)
    prior = int(counts.votes[:, 1].sum()) / int(counts.votes.sum())
    p_keep = fit_label_model(counts, prior, FitSettings()).p_keep(distinct).astype(np.float32)
    decided = samples.map_batches(_decided, fn_kwargs={"distinct": distinct, "p_keep": p_keep}, **_WHOLE)
    decided.write_parquet(str(out))
    return int(places["count()"].sum())


def _read(ledger: Sequence[str], *columns: str) -> Any:
    import ray.data

    return ray.data.read_parquet(list(ledger)).select_columns([*_UID, *columns])


def _frame(dataset: Any) -> pl.DataFrame:
    import ray

    blocks = [block for block in ray.get(dataset.to_arrow_refs()) if block.num_rows]
    return pl.from_arrow(pa.concat_tables(blocks))  # type: ignore[return-value]


def _cuts(places: pl.DataFrame, num_visits: int, fraction: float) -> tuple[NDArray[np.float32], list[int]]:
    """By visit the rank of the last row that is kept, and how many of that very rank are."""
    ranks, num_tied_kept = np.zeros(num_visits, np.float32), []
    for visit in range(num_visits):
        mine = places.filter(pl.col("visit") == visit).sort("rank", descending=True)
        down_to = mine["count()"].cum_sum().to_numpy()
        kept = top_count(fraction, int(down_to[-1]))
        at = int(np.searchsorted(down_to, kept))
        ranks[visit] = mine["rank"][at]
        num_tied_kept.append(kept - (int(down_to[at - 1]) if at else 0))
    return ranks, num_tied_kept


def _last_kept(tied: pl.DataFrame, num_tied_kept: Sequence[int]) -> NDArray[np.uint64]:
    """[visits, 2] uid of the last row that is kept."""
    rows = [
        tied.filter(pl.col("visit") == visit).sort(_UID).select(_UID).row(kept - 1)
        for visit, kept in enumerate(num_tied_kept)
    ]
    return np.asarray(rows, np.uint64)


def _ranked(batches: pa.Table) -> pa.Table:
    rank, _ = batch_scales(batches["step"].to_numpy(), batches["score"].to_numpy())
    return batches.select([*_UID, "visit"]).append_column("rank", pa.array(rank))


def _tied(rows: pa.Table, ranks: NDArray[np.float32]) -> pa.Table:
    return rows.filter(pa.array(rows["rank"].to_numpy() == ranks[rows["visit"].to_numpy()]))


def _voted(rows: pa.Table, ranks: NDArray[np.float32], lasts: NDArray[np.uint64]) -> pa.Table:
    visit, rank, hi, lo = (rows[name].to_numpy() for name in ("visit", "rank", *_UID))
    last_hi, last_lo = lasts[visit, 0], lasts[visit, 1]
    before = (hi < last_hi) | ((hi == last_hi) & (lo <= last_lo))
    keep = (rank > ranks[visit]) | ((rank == ranks[visit]) & before)
    pattern = (keep + np.int64(1)) * 3 ** visit.astype(np.int64)
    return pa.table({"uid_hi": hi, "uid_lo": lo, "rank": rank.astype(np.float64), "pattern": pattern})


def _decided(samples: pa.Table, distinct: NDArray[np.uint64], p_keep: NDArray[np.float32]) -> pa.Table:
    known = np.searchsorted(distinct, samples["pattern"].to_numpy())
    return samples.append_column("p_keep", pa.array(p_keep[known]))
