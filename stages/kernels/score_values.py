"""Score tables as the values that voters and means are made of."""

from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.kernels.scale import Scale
from stages.kernels.uid import run_starts

Visits = int | Literal["mean", "last"]
"""One visit by number, the mean over the visits of a sample, or the last of them."""

COLUMNS: dict[Scale, tuple[str, ...]] = {
    "batch_rank": ("rank",),
    "batch_z": ("z",),
    "weight": ("weight", "batch"),
    "raw": ("score",),
}
"""What each scale is read from."""


def scaled_scores(table: pa.Table, scale: Scale) -> NDArray[np.float32]:
    """Scores on a scale: [rows].

    Raises:
        ValueError: a value is NaN or infinite.
    """
    columns = [table[name].to_numpy() for name in COLUMNS[scale]]
    values: NDArray[np.float32] = columns[0].astype(np.float32)
    if scale == "weight":
        # In float32 the uniform weight 1/B times B rounds to 1, so that "above 1" means above the uniform share.
        values = values * columns[1].astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{int((~finite).sum())} scores are not finite; the first is {values[row]} in row {row}")
    return values


def by_sample(
    table: pa.Table, values: NDArray[np.float32], visits: Visits
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One value a sample from a table sorted by (uid, visit).

    Args:
        table: with uid_hi, uid_lo and visit.
        values: [rows] of it.
        visits: which to take.

    Returns:
        rows: [s] a row of each sample that has a value, in uid order.
        values: [s]; means are taken in float64 in the order of the visits.
    """
    if isinstance(visits, int):
        chosen = table["visit"].to_numpy() == visits
        if chosen.all():
            return np.arange(len(values)), values
        rows = np.flatnonzero(chosen)
        return rows, values[rows]
    if table.num_rows == 0:
        return np.empty(0, np.int64), values
    starts = run_starts(table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy())
    ends = np.append(starts[1:], table.num_rows)
    if visits == "last":
        return ends - 1, values[ends - 1]
    sums = np.add.reduceat(values.astype(np.float64), starts)
    return starts, (sums / (ends - starts)).astype(np.float32)
