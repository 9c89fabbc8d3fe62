"""What a rank scored, held in memory between planned checkpoints and cut into parts there.

A checkpoint that nobody planned (`stages/train/notice.py`) cuts nothing: it keeps the rows beside the weights, and who
goes on from it takes them up again. So the parts, and with them the content of the training, are those of a run that
was never disturbed.
"""

import io
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from pipeline.artifact import ArtifactWriter, FileEntry, parquet_bytes
from pipeline.errors import RunError
from stages.formats.ledger import LEDGER, part_stem


class Uncut(NamedTuple):
    """What one rank scored since its ledger was last cut."""

    first_step: int
    last_step: int
    """Inclusive; both are there even where no row is."""
    data: bytes
    """Parquet."""


class Ledger:
    """Rows of one rank; private to training until they are gathered.

    Memory: 38 bytes a row since the last cut.
    """

    def __init__(self, writer: ArtifactWriter, rank: int, earlier: Uncut | None = None) -> None:
        """Start with no row, or with those that an earlier process left uncut."""
        self._writer, self._rank = writer, rank
        self._tables: list[pa.Table] = []
        self._span: tuple[int, int] | None = None  # first and last step since the last cut
        if earlier is not None:
            self._tables.append(pq.read_table(io.BytesIO(earlier.data), schema=LEDGER))
            self._span = (earlier.first_step, earlier.last_step)

    def append(
        self,
        step: int,
        *,
        uid_hi: NDArray[np.uint64],
        uid_lo: NDArray[np.uint64],
        visit: NDArray[np.uint16],
        score: ArrayLike,
        weight: ArrayLike,
        loss: ArrayLike,
    ) -> None:
        """Record the scored samples of one step: [n] each, n may be 0.

        Every rank appends every step, so that the parts of all ranks cover the same steps.

        Raises:
            RunError: a score, weight or loss is NaN or infinite; names step and sample.
        """
        if self._span is not None and step != self._span[1] + 1:
            raise ValueError(f"step {step} does not follow step {self._span[1]}")
        measured = {"score": score, "weight": weight, "loss": loss}
        values = {name: np.asarray(value, np.float32) for name, value in measured.items()}
        for name, column in values.items():
            _refuse_not_finite(name, column, step, uid_hi, uid_lo)
        steps = np.full(len(uid_hi), step, np.int32)
        columns = {"uid_hi": uid_hi, "uid_lo": uid_lo, "visit": visit, "step": steps, **values}
        copies = {name: np.array(column) for name, column in columns.items()}  # the caller's batch may be reused
        self._tables.append(pa.table(copies, schema=LEDGER))
        self._span = (step if self._span is None else self._span[0], step)

    def cut(self) -> FileEntry | None:
        """Put what was appended since the last cut as one part, and forget it; None if no step was appended."""
        if self._span is None:
            return None
        entry = self._writer.put_table_by_content(part_stem(*self._span, self._rank), self._rows())
        self._tables, self._span = [], None
        return entry

    def uncut(self) -> Uncut | None:
        """What was appended since the last cut, still held; None if no step was appended."""
        return None if self._span is None else Uncut(*self._span, parquet_bytes(self._rows()))

    def _rows(self) -> pa.Table:
        return pa.concat_tables(self._tables).combine_chunks()


def _refuse_not_finite(
    name: str, values: NDArray[np.float32], step: int, uid_hi: NDArray[np.uint64], uid_lo: NDArray[np.uint64]
) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    row = int(np.argmin(finite))
    raise RunError(
        f"the {name} of a sample is not finite",
        where=f"step {step}, uid {int(uid_hi[row]):016x}{int(uid_lo[row]):016x}",
        expected=f"{len(values)} finite values",
        found=f"{int((~finite).sum())} not finite, the first is {values[row]}",
        next_step="training diverged: lower `train.learning_rate`, set `train.grad_clip`, or use `precision: fp32`",
    )
