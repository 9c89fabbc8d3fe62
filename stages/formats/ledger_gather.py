"""From a training's ledger to a score table: place each score in its batch, split by bucket, merge."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.artifact import Artifact, ArtifactWriter, Counts, FileEntry, entries_rows
from pipeline.errors import RunError
from pipeline.schema import SCORES, Schema
from pipeline.stage import Size, StageContext, StagePlan, StageResult
from pipeline.traffic import READ_AHEAD, Traffic, writes
from stages.formats.ledger import LEDGER, PREFIX, LedgerPartition, partitions, stretches
from stages.formats.score_parts import (
    MERGE_BYTES_PER_ROW,
    BucketPieces,
    MergedBucket,
    SplitPart,
    merge_bucket,
    pieces_by_bucket,
    split_by_bucket,
)
from stages.kernels.buckets import TASK_BASE, buckets_of_size
from stages.kernels.scale import batch_scales, batch_sizes

Measure = Literal["score", "loss"]
"""What of the ledger becomes the score: the mimic score as recorded, or minus the loss."""

MAX_PARTITION_ROWS = 2 << 20
"""Rows that a task holds; a batch is never divided."""

BATCHED = Schema({**SCORES.columns, "rank": pa.float32(), "z": pa.float32(), "batch": pa.uint32()}, open=True)
"""Scores that belong to batches: rank and z within the batch, and its number of scored samples."""

MIMIC = Schema({**BATCHED.columns, "weight": pa.float32(), "loss": pa.float32()})
LOSS = Schema({**BATCHED.columns, "loss": pa.float32()})
_BYTES_PER_ROW = 40
"""Of such a table in Parquet."""
_TASK_BYTES_PER_ROW = 250
_LEDGER_BYTES = 34
"""Of a ledger row in Parquet."""
_RECORD_BYTES = 46
"""Of a row between the two passes."""
_RANKS = 8
"""Whose files a task opens; where there are more, so are its requests."""
_PIECE_BYTES = 150
"""Of what the driver holds of one bucket's rows in one partition: where they are."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """How partitioned work is run: `Engine.map`."""

    def __call__(
        self,
        task: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        name: str,
        unit: str = ...,
        weigh: Callable[[Item], int] = ...,
    ) -> list[Result]:
        """Results in the order of the items."""


class Gathered(NamedTuple):
    """A finished score table."""

    files: tuple[FileEntry, ...]
    rows_in: int
    """Rows in the ledger."""
    rows: int
    """Rows in the score table."""
    scored: int
    """Distinct uids."""
    visits: int

    def summary(self, selector: str, pool: Artifact) -> dict[str, Any]:
        """What the score table's manifest says.

        Raises:
            RunError: more samples were scored than the pool has.
        """
        usable = int(pool.summary["usable"])
        if self.scored > usable:
            raise RunError(
                "more samples were scored than the pool has",
                where=pool.root,
                expected=f"at most {usable}",
                found=self.scored,
                next_step="the training belongs to another pool: remove its artifact",
            )
        return {
            "selector": selector,
            "visits": self.visits,
            "rows": self.rows,
            "scored": self.scored,
            "usable": usable,
            "coverage": self.scored / max(usable, 1),
            "bucket_bits": int(pool.summary["bucket_bits"]),
            "batched": True,
        }


def plan_gathering(inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
    """Two passes over the rows that training leaves, from the sizes of `training` and `pool`."""
    rows, pool = inputs["training"].rows, inputs["pool"]
    parts = max(1, -(-rows // MAX_PARTITION_ROWS))
    buckets = buckets_of_size(pool)
    pieces = min(parts * buckets, rows)
    ledger = Traffic(rows * _LEDGER_BYTES, parts * _RANKS + rows * _LEDGER_BYTES // READ_AHEAD)
    between = rows * _RECORD_BYTES
    held = max(min(rows, MAX_PARTITION_ROWS) * _TASK_BYTES_PER_ROW, rows * MERGE_BYTES_PER_ROW // buckets)
    return StagePlan(
        Size(rows, rows * _BYTES_PER_ROW, buckets),
        partitions=parts + buckets,
        peak_task_bytes=TASK_BASE + held,
        cpu_hours=rows / rates["gather_rows_per_second_per_cpu"] / 3600,
        traffic=ledger + Traffic(between, pieces) + writes(parts + buckets),
        private_bytes=between,
        driver_bytes=pieces * _PIECE_BYTES,
        num_files=buckets,
    )


def gather_scores(context: StageContext, measure: Measure, selector: str) -> StageResult:
    """Make the score table of a selector from the inputs `training` and `pool`; every row of the ledger is in it.

    Raises:
        RunError: as `gather_ledger`, or more samples were scored than the pool has.
    """
    pool = context.inputs["pool"]
    gathered = gather_ledger(
        context.engine.map,
        context.inputs["training"],
        context.output,
        measure=measure,
        bits=int(pool.summary["bucket_bits"]),
        name=selector,
    )
    counts = Counts(seen=gathered.rows_in, out=gathered.rows)
    return StageResult(gathered.files, gathered.summary(selector, pool), counts)


def gather_ledger(
    run: Mapper,
    training: Artifact,
    writer: ArtifactWriter,
    *,
    measure: Measure,
    bits: int,
    name: str,
    max_rows: int = MAX_PARTITION_ROWS,
) -> Gathered:
    """Gather the ledger of a training into buckets, in two passes of independent tasks.

    No row passes the driver, which holds O(partitions * buckets) counts. A task of the first pass holds the steps
    of one partition, one of the second pass a bucket.

    Args:
        run: how tasks are run.
        training: with `ledger/` parts, exactly those that its last checkpoint lists.
        writer: of the score table.
        measure: what becomes the score.
        bits: of the uid prefix, as in the pool.
        name: of the score table, for progress.
        max_rows: rows of a partition, where steps allow.

    Raises:
        RunError: the ledger is not whole, or a sample has two scores for one visit.
    """
    entries = training.files(PREFIX, ".parquet")
    if not entries:
        raise RunError("the training recorded no scores", where=training.root, expected=f"parts below {PREFIX}")
    work = partitions(stretches(entries, training.root), max_rows)
    split = partial(split_partition, training=training, writer=writer, measure=measure, bits=bits)
    parts: list[SplitPart] = run(split, work, name=f"{name}: split", unit="rows", weigh=_partition_rows)
    merge = partial(merge_bucket, writer=writer, schema=table_schema(measure))
    buckets = pieces_by_bucket(parts, bits)
    merged: list[MergedBucket] = run(merge, buckets, name=f"{name}: merge", unit="rows", weigh=_bucket_rows)
    files = tuple(bucket.file for bucket in merged)
    return Gathered(
        files,
        entries_rows(entries),
        entries_rows(files),
        sum(bucket.scored for bucket in merged),
        max(bucket.visits for bucket in merged),
    )


def split_partition(
    partition: LedgerPartition, *, training: Artifact, writer: ArtifactWriter, measure: Measure, bits: int
) -> SplitPart:
    """First pass: the steps of one partition, with each score's place in its batch, as a split part."""
    table = scored(read_partition(training, partition), measure)
    return split_by_bucket(table, writer, f"{partition.first_step:09d}-{partition.last_step:09d}", bits)


def read_partition(training: Artifact, partition: LedgerPartition) -> pa.Table:
    """All ranks' rows of a partition's steps; row groups of other steps are not read."""
    tables = [LEDGER.empty_table()]
    for path in partition.paths:
        with training.open_table(path) as file:
            groups = [group for group in range(file.num_row_groups) if _overlaps(file, group, partition)]
            tables.append(file.read_row_groups(groups, columns=LEDGER.names))
    table = pa.concat_tables(tables)
    step = table["step"]
    inside = pc.and_(pc.greater_equal(step, partition.first_step), pc.less_equal(step, partition.last_step))
    return table.filter(inside).combine_chunks()


def scored(ledger: pa.Table, measure: Measure) -> pa.Table:
    """Rows of whole batches as a score table's rows, in no order."""
    step = ledger["step"].to_numpy()
    score = ledger["score"].to_numpy() if measure == "score" else -ledger["loss"].to_numpy()
    rank, z = batch_scales(step, score)
    values = {
        **{column: ledger[column] for column in ledger.column_names},
        "score": score,
        "rank": rank,
        "z": z,
        "batch": batch_sizes(step),
    }
    schema = table_schema(measure)
    return pa.table({column: values[column] for column in schema.names}, schema=schema)


def table_schema(measure: Measure) -> pa.Schema:
    """Columns of the score table that a measure gives."""
    return pa.schema(list((MIMIC if measure == "score" else LOSS).columns.items()))


def _overlaps(file: pq.ParquetFile, group: int, partition: LedgerPartition) -> bool:
    statistics = file.metadata.row_group(group).column(LEDGER.get_field_index("step")).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= partition.last_step and statistics.max >= partition.first_step)


def _partition_rows(partition: LedgerPartition) -> int:
    return partition.rows


def _bucket_rows(pieces: BucketPieces) -> int:
    return pieces.rows
