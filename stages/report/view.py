"""What the report reads of one bucket: scores, fate and truth of its samples, row by row beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from stages.kernels.buckets import TARGET_ROWS, bucket_groups, bucket_path
from stages.kernels.score_values import by_sample
from stages.kernels.uid import positions
from stages.report.truth import Truth, Verdicts

MAX_GROUPS = 64
"""Tasks of a pass at most; bounds what the driver holds."""
P_KEEP = "p_keep"
KEPT = "kept"
NUM_LABELS = 3
NUM_CATEGORIES = 2 * NUM_LABELS
"""Category of a sample: 3 * kept + label, label 0 not judged, 1 mismatched, 2 other."""
UNJUDGED, MISMATCHED, OTHER = range(NUM_LABELS)

_UID = ["uid_hi", "uid_lo"]


@dataclass(frozen=True)
class Source:
    """One column of values by sample: a selector's scores, or the decisions' probability."""

    name: str
    table: Artifact
    column: str
    """Comparable over the pool: `rank` (place within the batch) where scores belong to batches."""
    visits: int

    @classmethod
    def of_scores(cls, name: str, table: Artifact) -> "Source":
        """A score table; its scores are compared on the within-batch scale if it records one."""
        columns = table.schema(table.files("bucket-")[0].path).names
        batched = bool(table.summary.get("batched")) and "rank" in columns
        return cls(name, table, "rank" if batched else "score", int(table.summary["visits"]))

    @classmethod
    def of_decisions(cls, table: Artifact) -> "Source":
        """The decisions' p_keep, as one more source."""
        return cls(P_KEEP, table, P_KEEP, 1)

    def means(self, bucket: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.float32]]:
        """Mean over the visits of each scored sample of a bucket: uid halves and values, by uid."""
        if self.name == P_KEEP:
            table = self.table.read_table(bucket_path(bucket), [*_UID, P_KEEP])
            return tuple(table[name].to_numpy() for name in (*_UID, P_KEEP))
        table = self.table.read_table(bucket_path(bucket), [*_UID, "visit", self.column])
        rows, means = by_sample(table, table[self.column].to_numpy(), "mean")
        return table["uid_hi"].to_numpy()[rows], table["uid_lo"].to_numpy()[rows], means

    def by_visit(self, bucket: int) -> pa.Table:
        """Every value as recorded: uid_hi, uid_lo, visit, value."""
        if self.name == P_KEEP:
            table = self.table.read_table(bucket_path(bucket), [*_UID, P_KEEP])
            zero = pa.array(np.zeros(table.num_rows, np.uint16))
            return pa.table({**{name: table[name] for name in _UID}, "visit": zero, "value": table[P_KEEP]})
        return self.table.read_table(bucket_path(bucket), [*_UID, "visit", "score"]).rename_columns(
            [*_UID, "visit", "value"]
        )


@dataclass(frozen=True)
class Pool:
    """The finished run as the report's tasks read it; picklable."""

    index: Artifact
    subset: Artifact
    sources: tuple[Source, ...]
    truth: Truth | None

    @property
    def bits(self) -> int:
        """Bits of a uid that name its bucket."""
        return int(self.index.summary["bucket_bits"])

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Buckets by task; with truth few large groups, as each task reads the truth file once."""
        large = -(-int(self.index.summary["usable"]) // TARGET_ROWS)
        return bucket_groups(1 << self.bits, MAX_GROUPS if self.truth is None else min(MAX_GROUPS, large))

    def views(self, buckets: Sequence[int]) -> Iterator["BucketView"]:
        """Bucket after bucket, each read when its turn comes."""
        verdicts = self.truth.read(self.bits, buckets) if self.truth else None
        for bucket in buckets:
            yield BucketView.read(self, bucket, verdicts)


@dataclass(frozen=True)
class BucketView:
    """The usable samples of one bucket, by uid."""

    pool: Pool
    bucket: int
    uid_hi: NDArray[np.uint64]
    uid_lo: NDArray[np.uint64]
    reason: pa.ChunkedArray
    """`kept`, or why it was dropped."""
    kept: NDArray[np.bool_]
    verdict: NDArray[np.int8]
    """[n, 3] mismatched, clean, trusted; -1 where nothing is known."""

    @classmethod
    def read(cls, pool: Pool, bucket: int, verdicts: Verdicts | None) -> "BucketView":
        """Read uids, fates and truth; scores follow when they are asked for."""
        index = pool.index.read_table(bucket_path(bucket, "index"), _UID)
        hi, lo = (index[name].to_numpy() for name in _UID)
        fates = pool.subset.read_table(bucket_path(bucket, "reasons"), [*_UID, "reason"])
        row = positions(fates["uid_hi"].to_numpy(), fates["uid_lo"].to_numpy(), hi, lo)
        reason = fates["reason"].take(pa.array(row, mask=row < 0)).cast(pa.string())
        kept = pc.fill_null(pc.equal(reason, KEPT), False).to_numpy().astype(np.bool_)
        verdict = verdicts.of(hi, lo) if verdicts is not None else np.full((len(hi), 3), -1, np.int8)
        return cls(pool, bucket, hi, lo, reason, kept, verdict)

    @property
    def label(self) -> NDArray[np.int64]:
        """[n] UNJUDGED (unknown, or trusted: the reference saw it as good), MISMATCHED or OTHER."""
        mismatched, trusted = self.verdict[:, 0], self.verdict[:, 2]
        judged = np.where(mismatched == 1, MISMATCHED, OTHER)
        return np.where((mismatched < 0) | (trusted == 1), UNJUDGED, judged)

    @property
    def category(self) -> NDArray[np.int64]:
        """[n] fate and label in one number."""
        category: NDArray[np.int64] = self.kept * NUM_LABELS + self.label
        return category

    def rows_of(self, hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row of each uid here, -1 where it is no usable sample."""
        return positions(self.uid_hi, self.uid_lo, hi, lo)

    def means(self) -> Mapping[str, NDArray[np.float32]]:
        """By source: [n] mean over the visits, NaN where there is no score."""
        columns = {}
        for source in self.pool.sources:
            hi, lo, values = source.means(self.bucket)
            row = self.rows_of(hi, lo)
            column = np.full(len(self.uid_hi), np.nan, np.float32)
            column[row[row >= 0]] = values[row >= 0]
            columns[source.name] = column
        return columns
