"""What every single-pass selector is: it may look at the whole pool first, then scores it bucket by bucket.

A selector's file holds its config (with `kind` and `roles()`) and one subclass of `SelectorStage` that says how a
partition is scored. Reading, checking, sorting and writing are here.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter, Counts
from pipeline.config_base import Config
from pipeline.engine import Engine
from pipeline.errors import RunError
from pipeline.schema import POOL, SCORES, Schema
from pipeline.stage import External, ExternalFiles, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage
from pipeline.traffic import writes
from stages.formats.metadata_columns import Reader, TypeTest, check_index, check_metadata
from stages.formats.score_parts import MergedBucket, put_bucket, record_type
from stages.kernels.buckets import TASK_BASE, UID_BYTES, bucket_path, buckets_of_size, planned_pass

ConfigT = TypeVar("ConfigT", bound=Config)
Result = TypeVar("Result")

TABLE = pa.schema(list(SCORES.columns.items()))
SINGLE_VISIT, NO_STEP = 0, -1
UNSCORED = "no score"
BYTES_PER_ROW = 22
"""Of a score table in Parquet: uids do not compress."""
_TEXT_BYTES = 40
_READ_BYTES = {"is_number": 8, "is_label": 1}
"""Of a metadata value in Parquet, by its kind."""


@dataclass(frozen=True)
class Partition:
    """One uid bucket of the pool."""

    bucket: int
    pool: Artifact

    @property
    def path(self) -> str:
        """Its file in the pool artifact."""
        return bucket_path(self.bucket, "index")

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the pool's index, sorted by uid."""
        return self.pool.read_table(self.path, list(columns))


class Partitions:
    """All partitions, for selectors that must see the pool before they can score it."""

    def __init__(self, engine: Engine, pool: Artifact, name: str) -> None:
        """Nothing is read yet."""
        self._engine, self._pool, self._name = engine, pool, name

    def map(self, task: Callable[[Partition], Result]) -> list[Result]:
        """Apply a picklable task to every partition, anywhere; small results, in the order of the buckets."""
        return self._engine.map(partial(_apply, task, self._pool), buckets_of(self._pool), name=f"{self._name}: fit")


class Scores(NamedTuple):
    """Scores of some or all samples of a partition, in the order of its rows."""

    uid_hi: NDArray[np.uint64]
    uid_lo: NDArray[np.uint64]
    score: NDArray[np.float32]
    """Higher means keep; finite."""


class Selector(Stage[ConfigT]):
    """A stage that makes one score table."""

    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL}
    gives: ClassVar[Schema] = SCORES

    def __init__(self, config: ConfigT, *, name: str, pool_path: str, metadata: str | None = None) -> None:
        """Keep what it is told.

        Args:
            config: the selector's own block.
            name: of the score table; the artifact is `scores/<name>`.
            pool_path: where the pool's shards lie.
            metadata: folder of the pool's metadata, to refuse unknown columns before any work.
        """
        super().__init__(config)
        self.name = name
        self.pool_path = pool_path
        self.metadata = metadata

    def result(self, pool: Artifact, merged: Sequence[MergedBucket], entries: Sequence[str] = ()) -> StageResult:
        """Files, summary and counts of a score table of one visit, and names of the entries that it was made from."""
        usable, scored = int(pool.summary["usable"]), sum(bucket.scored for bucket in merged)
        summary = {
            "selector": self.name,
            "visits": 1,
            "rows": scored,
            "scored": scored,
            "usable": usable,
            "coverage": scored / max(usable, 1),
            "bucket_bits": int(pool.summary["bucket_bits"]),
            "batched": False,
        }
        counts = Counts(seen=usable, out=scored, dropped={UNSCORED: usable - scored})
        return StageResult(tuple(bucket.file for bucket in merged), summary, counts, entries=tuple(entries))


class SelectorStage(Selector[ConfigT]):
    """A method that scores the pool bucket by bucket: `fit` once, then `score` for every partition."""

    def metadata_types(self) -> Mapping[str, TypeTest]:
        """Columns of the pool's metadata that `score` reads, with the kinds that it can use."""
        return {}

    def external(self) -> Mapping[str, External]:
        """The metadata's header where columns of it are wanted; the pool's index vouches for the content."""
        if self.metadata is None or not self.metadata_types():
            return {}
        return {"metadata": External(self.metadata, identity=False, suffix=".parquet")}

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """Check the metadata's columns."""
        check_metadata(external, storage, self.metadata_types(), self._reader)

    @property
    def _reader(self) -> Reader:
        return Reader(f"selector {self.name}", f"selectors.{self.name}")

    def fit(self, partitions: Partitions) -> Any:
        """What `score` needs to know of the whole pool; picklable and small. Nothing by default."""
        del partitions

    @abstractmethod
    def score(self, partition: Partition, state: Any) -> Scores:
        """Scores of a partition's samples; those without a score are left out."""

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """One pass over the pool's index."""
        pool = inputs["pool"]
        buckets = buckets_of_size(pool)
        read = UID_BYTES + sum(_READ_BYTES.get(test.__name__, _TEXT_BYTES) for test in self.metadata_types().values())
        return StagePlan(
            Size(pool.rows, pool.rows * BYTES_PER_ROW, buckets),
            partitions=buckets,
            peak_task_bytes=TASK_BASE + pool.rows * 160 // buckets,
            cpu_hours=pool.rows / rates["column_rows_per_second_per_cpu"] / 3600,
            traffic=planned_pass(pool, read, stretches=2) + writes(buckets),
            num_files=buckets,
        )

    def run(self, context: StageContext) -> StageResult:
        """Fit, then score every bucket."""
        pool = context.inputs["pool"]
        check_index(pool, self.metadata_types(), self._reader)
        state = self.fit(Partitions(context.engine, pool, self.name))
        task = partial(_score_bucket, self, pool, context.output, state)
        merged = context.engine.map(task, buckets_of(pool), name=f"{self.name}: score")
        return self.result(pool, merged)


def buckets_of(pool: Artifact) -> range:
    """Numbers of the pool's uid buckets."""
    return range(1 << int(pool.summary["bucket_bits"]))


def _apply(task: Callable[[Partition], Result], pool: Artifact, bucket: int) -> Result:
    return task(Partition(bucket, pool))


def _score_bucket(
    selector: SelectorStage[Any], pool: Artifact, writer: ArtifactWriter, state: Any, bucket: int
) -> MergedBucket:
    partition = Partition(bucket, pool)
    scores = selector.score(partition, state)
    refuse_not_finite(scores, selector.name, partition.path)
    records = np.empty(len(scores.score), record_type(TABLE))
    records["uid_hi"], records["uid_lo"], records["score"] = scores
    records["visit"], records["step"] = SINGLE_VISIT, NO_STEP
    return put_bucket(records, partition.bucket, writer=writer, schema=TABLE)


def refuse_not_finite(scores: Scores, name: str, where: str) -> None:
    """Raise RunError if a score is NaN or infinite; names the first sample."""
    finite = np.isfinite(scores.score)
    if finite.all():
        return
    row = int(np.argmin(finite))
    raise RunError(
        f"selector {name} gives scores that are not finite",
        where=f"{where}, uid {int(scores.uid_hi[row]):016x}{int(scores.uid_lo[row]):016x}",
        expected=f"{len(finite)} finite scores",
        found=f"{int((~finite).sum())} not finite, the first is {scores.score[row]}",
    )
