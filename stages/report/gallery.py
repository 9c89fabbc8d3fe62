"""Which samples to show: the best and worst, those at the cut, and those over which selectors disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Engine
from stages.kernels.buckets import bucket_path
from stages.kernels.uid import hash_u64, to_hex
from stages.report.bins import BinCounts
from stages.report.view import P_KEEP, BucketView, Pool

LEAD = "mimic"
"""The selector whose extremes are shown, if the run has it."""
_RIVALS = ("clip_score", "reference_clip_score", "loss")
_PLACE = ("shard", "offset", "length", "key")


@dataclass(frozen=True)
class Wish:
    """What a gallery shows: the samples of greatest value."""

    name: str
    title: str
    about: str
    kind: str
    """`high`, `low` (of `first`), `kept_low`, `dropped_high` (of p_keep), `above` (`first` above `second`)."""
    first: str
    second: str
    count: int


@dataclass(frozen=True)
class Shown:
    """One sample of a gallery, with what is known of it."""

    uid: str
    shard: int
    offset: int
    length: int
    key: str
    reason: str
    means: Mapping[str, float]
    """By source that scored it: mean value, comparable over the pool."""
    percentiles: Mapping[str, float]
    """By source: share of the pool below it."""


@dataclass(frozen=True)
class _Candidate:
    order: tuple[float, float, int]
    shown: Shown


def wishes(sources: Sequence[str], count: int) -> list[Wish]:
    """The galleries of a run with these sources."""
    selectors = [name for name in sources if name != P_KEEP]
    if not selectors or not count:
        return []
    lead = LEAD if LEAD in selectors else selectors[0]
    half = max(1, count // 2)
    extremes, cut = partial(Wish, first=lead, second=P_KEEP, count=count), partial(Wish, first=P_KEEP, second=lead)
    found = [
        extremes("highest", f"Highest {lead} score", "What the selector wants most.", "high"),
        extremes("lowest", f"Lowest {lead} score", "What the selector wants least.", "low"),
        cut("barely_kept", "Kept, but only just", "Kept samples of lowest p_keep.", "kept_low", count=half),
        cut(
            "barely_dropped", "Dropped, but only just", "Dropped samples of highest p_keep.", "dropped_high", count=half
        ),
    ]
    others = [name for name in selectors if name != lead]
    rival = next((name for name in _RIVALS if name in others), others[0] if others else None)
    if rival is not None:
        found += [
            Wish(
                f"above_{name}", f"High in {high}, low in {low}", "Where both disagree most.", "above", high, low, half
            )
            for name, high, low in (("rival", lead, rival), ("lead", rival, lead))
        ]
    return found


def choose(
    engine: Engine, pool: Pool, wanted: Sequence[Wish], means: Mapping[str, BinCounts]
) -> dict[str, list[Shown]]:
    """Candidates of every bucket, then the best of them; ties go by a hash of the uid."""
    if not wanted:
        return {}
    groups = pool.groups
    task = partial(_candidates, pool, wanted, {name: bins for name, bins in means.items() if bins.total})
    found = engine.map(task, groups, name="report: galleries", unit="buckets", weigh=len)
    chosen = {}
    for wish in wanted:
        candidates = [candidate for part in found for candidate in part[wish.name]]
        candidates.sort(key=lambda candidate: candidate.order, reverse=True)
        chosen[wish.name] = [candidate.shown for candidate in candidates[: wish.count]]
    return chosen


def _candidates(
    pool: Pool, wanted: Sequence[Wish], bins: Mapping[str, BinCounts], buckets: Sequence[int]
) -> dict[str, list[_Candidate]]:
    best: dict[str, list[_Candidate]] = {wish.name: [] for wish in wanted}
    for view in pool.views(buckets):
        means = view.means()
        percentiles = {name: _percentiles(means[name], counts) for name, counts in bins.items()}
        picks = {wish.name: _pick(wish, view, means, percentiles) for wish in wanted}
        rows = np.unique(np.concatenate([rows for rows, _ in picks.values()]))
        shown = _describe(view, rows, means, percentiles)
        for name, (picked, orders) in picks.items():
            best[name] += [_Candidate(order, shown[row]) for row, order in zip(picked.tolist(), orders, strict=True)]
    for wish in wanted:
        best[wish.name].sort(key=lambda candidate: candidate.order, reverse=True)
        del best[wish.name][wish.count :]
    return best


def _percentiles(values: NDArray[np.float32], bins: BinCounts) -> NDArray[np.float64]:
    shares = np.full(len(values), np.nan)
    scored = ~np.isnan(values)
    shares[scored] = bins.percentile(values[scored])
    return shares


def _pick(
    wish: Wish,
    view: BucketView,
    means: Mapping[str, NDArray[np.float32]],
    percentiles: Mapping[str, NDArray[np.float64]],
) -> tuple[NDArray[np.int64], list[tuple[float, float, int]]]:
    """Rows of greatest value, and what orders them beyond this bucket."""
    nothing = np.full(len(view.kept), np.nan)
    first = means.get(wish.first, nothing).astype(np.float64)
    second = means.get(wish.second, nothing).astype(np.float64)
    if wish.kind == "high":
        value, tie = first, second
    elif wish.kind == "low":
        value, tie = -first, -second
    elif wish.kind == "kept_low":
        value, tie = np.where(view.kept, -first, np.nan), -second
    elif wish.kind == "dropped_high":
        value, tie = np.where(view.kept, np.nan, first), second
    else:
        value = percentiles.get(wish.first, nothing) - percentiles.get(wish.second, nothing)
        tie = np.zeros(len(value))
    tie = np.nan_to_num(tie, nan=-np.inf)
    draw = hash_u64(view.uid_hi, view.uid_lo, 0)
    rows = np.flatnonzero(~np.isnan(value))
    rows = rows[np.lexsort((draw[rows], tie[rows], value[rows]))[::-1][: wish.count]]
    return rows, [(float(value[row]), float(tie[row]), int(draw[row])) for row in rows.tolist()]


def _describe(
    view: BucketView,
    rows: NDArray[np.int64],
    means: Mapping[str, NDArray[np.float32]],
    percentiles: Mapping[str, NDArray[np.float64]],
) -> dict[int, Shown]:
    """A few dozen rows in full."""
    index = view.pool.index.read_table(bucket_path(view.bucket, "index"), list(_PLACE)).take(rows).to_pylist()
    uids = to_hex(view.uid_hi[rows], view.uid_lo[rows]).to_pylist()
    reasons = view.reason.take(rows).to_pylist()
    return {
        row: Shown(
            uid,
            **place,
            reason=reason or "unknown",
            means={name: float(values[row]) for name, values in means.items() if not np.isnan(values[row])},
            percentiles={name: float(s[row]) for name, s in percentiles.items() if not np.isnan(s[row])},
        )
        for row, uid, place, reason in zip(rows.tolist(), uids, index, reasons, strict=True)
    }
