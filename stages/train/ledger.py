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

_ROW = np.dtype([(field.name, field.type.to_pandas_dtype()) for field in LEDGER])
_BLOCK_ROWS = 1 << 16


class Uncut(NamedTuple):
    """What one rank scored since its ledger was last cut."""

    first_step: int
    last_step: int
    """Inclusive; both are there even where no row is."""
    data: bytes
    """Parquet."""


class Ledger:
    """Rows of one rank; private to training until they are gathered.

    Memory: 34 bytes a row since the last cut, in blocks: small arrays that stay would pin the memory around them, which
    each step takes and gives back.
    """

    def __init__(self, writer: ArtifactWriter, rank: int, earlier: Uncut | None = None) -> None:
        """Start with no row, or with those that an earlier process left uncut."""
        self._writer, self._rank = writer, rank
        self._earlier = LEDGER.empty_table()
        self._blocks: list[NDArray[np.void]] = []
        self._room = 0  # rows that the last block can still take
        self._span: tuple[int, int] | None = None  # first and last step since the last cut
        if earlier is not None:
            self._earlier = pq.read_table(io.BytesIO(earlier.data), schema=LEDGER)
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
        rows = np.empty(len(uid_hi), _ROW)
        rows["uid_hi"], rows["uid_lo"], rows["visit"], rows["step"] = uid_hi, uid_lo, visit, step
        for name, column in values.items():
            rows[name] = column
        self._keep(rows)
        self._span = (step if self._span is None else self._span[0], step)

    def cut(self) -> FileEntry | None:
        """Put what was appended since the last cut as one part, and forget it; None if no step was appended."""
        if self._span is None:
            return None
        entry = self._writer.put_table_by_content(part_stem(*self._span, self._rank), self._rows())
        self._earlier, self._blocks, self._room, self._span = LEDGER.empty_table(), [], 0, None
        return entry

    def uncut(self) -> Uncut | None:
        """What was appended since the last cut, still held; None if no step was appended."""
        return None if self._span is None else Uncut(*self._span, parquet_bytes(self._rows()))

    def _keep(self, rows: NDArray[np.void]) -> None:
        while len(rows):
            if self._room == 0:
                self._blocks.append(np.empty(_BLOCK_ROWS, _ROW))
                self._room = _BLOCK_ROWS
            count, first = min(self._room, len(rows)), _BLOCK_ROWS - self._room
            self._blocks[-1][first : first + count] = rows[:count]
            self._room -= count
            rows = rows[count:]

    def _rows(self) -> pa.Table:
        blocks = [*self._blocks[:-1], *(block[: len(block) - self._room] for block in self._blocks[-1:])]
        columns = {
            name: np.concatenate([self._earlier[name].to_numpy(), *(block[name] for block in blocks)])
            for name in LEDGER.names
        }
        return pa.table(columns, schema=LEDGER)


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
