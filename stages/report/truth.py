"""What is wrong with each sample, where that is known: read here and in evaluation, by no other stage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.storage import Storage
from stages.kernels.uid import bucket_of, parse_hex, positions

COLUMNS = ("uid", "ills", "mismatched", "clean", "trusted", "true_caption")
_FLAGS = ("mismatched", "clean", "trusted")
_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class Verdicts:
    """Truth about the samples of some buckets, sorted by uid, each uid once."""

    hi: NDArray[np.uint64]
    lo: NDArray[np.uint64]
    flags: NDArray[np.bool_]
    """[n, 3] mismatched, clean, trusted."""

    def of(self, hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.int8]:
        """Flags of each uid: [q, 3], all -1 where nothing is known."""
        row = positions(self.hi, self.lo, hi, lo)
        known = np.full((len(hi), len(_FLAGS)), -1, np.int8)
        known[row >= 0] = self.flags[row[row >= 0]]
        return known


@dataclass(frozen=True)
class Truth:
    """A Parquet file of verdicts by uid; it is streamed, never held whole."""

    storage: Storage
    uri: str

    def check(self) -> None:
        """Refuse a file of another layout.

        Raises:
            UserError: a column is missing.
        """
        try:
            with self.storage.open(self.uri) as source:
                found = pq.ParquetFile(source).schema_arrow.names
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                "the truth file is not Parquet", where=self.uri, expected="Parquet", found=str(error).splitlines()[0]
            ) from error
        missing = [name for name in COLUMNS if name not in found]
        if missing:
            raise UserError(
                "the truth file lacks columns",
                where=self.uri,
                expected=", ".join(COLUMNS),
                found=f"no {', '.join(missing)}",
                next_step="leave `report.truth` out where nothing is known, or make the demo pool anew",
            )

    def read(self, bits: int, buckets: Sequence[int]) -> Verdicts:
        """Verdicts on the samples of some buckets; of several rows with one uid the first counts."""
        parts = []
        for batch in self._batches(["uid", *_FLAGS]):
            parsed = parse_hex(batch["uid"])
            chosen = np.isin(bucket_of(parsed.hi, bits), buckets)
            flags = np.stack([batch[name].to_numpy(zero_copy_only=False).astype(np.bool_) for name in _FLAGS], axis=1)
            parts.append((parsed.hi[chosen], parsed.lo[chosen], flags[chosen]))
        hi, lo, flags = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((lo, hi))  # stable: the first row of a uid stays the first
        hi, lo, flags = hi[order], lo[order], flags[order]
        first = np.ones(len(hi), np.bool_)
        first[1:] = (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])
        return Verdicts(hi[first], lo[first], flags[first])

    def details(self, uids: Sequence[str]) -> dict[str, tuple[list[str], str | None]]:
        """Planted ills and true caption of a few samples, by uid of 32 digits."""
        wanted = set(uids)
        found: dict[str, tuple[list[str], str | None]] = {}
        for batch in self._batches(["uid", "ills", "true_caption"]):
            chosen = batch.filter(pc.is_in(batch["uid"], value_set=pa.array(sorted(wanted), pa.string())))
            for row in chosen.to_pylist():  # a few dozen rows in all
                found.setdefault(row["uid"], (row["ills"] or [], row["true_caption"]))
        return found

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self.storage.open(self.uri) as source:
            yield from pq.ParquetFile(source).iter_batches(_BATCH_ROWS, columns=columns)
