"""What the first rank shows of its training to those who watch: see `pipeline/metrics.py`."""

import time
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from pipeline.metrics import count, show
from stages.train.step import Outcome

Value = TypeVar("Value")

QUANTILES = (0.1, 0.5, 0.9)


class Meter:
    """Of one training; other ranks see the same batches and stay silent."""

    def __init__(self, training: str, batch_size: int, *, first: bool) -> None:
        """Time runs from here on."""
        self._training, self._batch_size, self._first = training, batch_size, first
        self.checkpointed()  # what is at stake before the first one begins here

    def timed(self, batches: Iterator[Value]) -> Iterator[Value]:
        """The same batches; counts how long each was waited for, and how long it was worked on."""
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            waited = time.perf_counter()
            yield batch
            if self._first:
                count("train_seconds", waited - begun, training=self._training, phase="data")
                count("train_seconds", time.perf_counter() - waited, training=self._training, phase="step")

    def stepped(self, outcome: Outcome) -> None:
        """Show a batch, one whose loss is not finite as well."""
        if not self._first:
            return
        count("samples", self._batch_size, training=self._training)
        show("loss", outcome.loss, training=self._training)
        show("effective_batch", outcome.effective_share, training=self._training)
        if outcome.scores is not None:
            values = np.quantile(outcome.scores[outcome.scored], QUANTILES)
            for quantile, value in zip(QUANTILES, values, strict=True):
                show("score", float(value), training=self._training, quantile=str(quantile))

    def checkpointed(self) -> None:
        """Nothing before now can be lost."""
        if self._first:
            show("checkpoint_time", time.time(), training=self._training)
