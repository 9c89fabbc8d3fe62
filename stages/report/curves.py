"""Learning curves, thinned to what a chart can show."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact

HISTORY = "history.parquet"
MAX_POINTS = 240
"""Points of a curve; more steps are averaged in equal stretches."""


def read_history(artifact: Artifact, columns: list[str]) -> pa.Table | None:
    """Some columns of a training's history; None if it kept none."""
    return artifact.read_table(HISTORY, columns) if artifact.files(HISTORY) else None


def last_row(artifact: Artifact) -> dict[str, Any]:
    """What the last step recorded."""
    history = read_history(artifact, ["step", "loss", "effective_batch", "temperature"])
    if history is None or history.num_rows == 0:
        return {}
    row: dict[str, Any] = history.slice(history.num_rows - 1).to_pylist()[0]
    return row


def thinned(history: pa.Table, column: str, max_points: int = MAX_POINTS) -> list[tuple[float, float]]:
    """(step, value) of a column; stretches of steps are averaged, missing values left out."""
    steps = history["step"].to_numpy().astype(np.float64)
    values = history[column].cast(pa.float64()).to_numpy()
    present = np.isfinite(values)
    steps, values = steps[present], values[present]
    if len(steps) == 0:
        return []
    starts = np.unique(np.linspace(0, len(steps), min(max_points, len(steps)), endpoint=False).astype(np.int64))
    return list(zip(_averaged(steps, starts).tolist(), _averaged(values, starts).tolist(), strict=True))


def _averaged(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    sizes = np.diff(starts, append=len(values))
    means: NDArray[np.float64] = np.add.reduceat(values, starts) / sizes
    return means
