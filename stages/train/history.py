"""What each step found, as a table."""

import math

import numpy as np
import pyarrow as pa

from stages.train.step import Outcome

SCHEMA = pa.schema(
    {
        "step": pa.int32(),
        "epoch": pa.int32(),
        "samples_seen": pa.int64(),
        "loss": pa.float64(),
        "learning_rate": pa.float64(),
        "logit_scale": pa.float64(),
        "effective_batch": pa.float64(),
        "temperature": pa.float64(),
        "direction_norm": pa.float64(),
        "score_q10": pa.float64(),
        "score_q50": pa.float64(),
        "score_q90": pa.float64(),
    }
)
"""`effective_batch` is a share of the scored batch; what a step has not is null, an infinite temperature too."""


class History:
    """Grows by a row a step; rank 0 alone keeps it."""

    def __init__(self, earlier: pa.Table | None = None) -> None:
        """Go on from what a checkpoint had."""
        self._earlier = earlier if earlier is not None else SCHEMA.empty_table()
        self._rows: list[dict[str, float | None]] = []

    def append(
        self, outcome: Outcome, *, step: int, epoch: int, samples_seen: int, learning_rate: float, logit_scale: float
    ) -> None:
        """Add a step."""
        own = None if outcome.scores is None else outcome.scores[outcome.scored]
        quantiles = (None, None, None) if own is None else np.quantile(own, [0.1, 0.5, 0.9]).tolist()
        tau = outcome.temperature
        self._rows.append(
            {
                "step": step,
                "epoch": epoch,
                "samples_seen": samples_seen,
                "loss": outcome.loss,
                "learning_rate": learning_rate,
                "logit_scale": logit_scale,
                "effective_batch": outcome.effective_share,
                "temperature": tau if tau is not None and math.isfinite(tau) else None,
                "direction_norm": outcome.direction_norm,
                "score_q10": quantiles[0],
                "score_q50": quantiles[1],
                "score_q90": quantiles[2],
            }
        )

    def table(self) -> pa.Table:
        """All steps."""
        recent = pa.Table.from_pylist(self._rows, schema=SCHEMA)
        return pa.concat_tables([self._earlier, recent]).combine_chunks()
