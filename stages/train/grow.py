"""Scores of a pool that grew, by the training of an earlier run: carried over where nothing changed, new ones added.

New samples (`stages/train/added.py`) have one score each, by the stored weights. It stands as that of the *last* visit,
whose weights were nearest to those; voters on earlier visits abstain. Companions of the pass keep the scores that they
had.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.artifact import Artifact, ArtifactWriter, Counts, entries_rows
from pipeline.schema import MODEL, POOL, SCORES, SUBSET, Schema
from pipeline.stage import Size, Stage, StageContext, StagePlan, StageResult
from stages.formats.ledger import PREFIX, LedgerPartition, partitions, stretches
from stages.formats.ledger_gather import (
    LOSS,
    MAX_PARTITION_ROWS,
    MIMIC,
    Measure,
    plan_gathering,
    read_partition,
    scored,
)
from stages.formats.recut import rows_of_bucket
from stages.formats.score_parts import (
    BucketPieces,
    MergedBucket,
    SplitPart,
    pieces_by_bucket,
    put_bucket,
    read_bucket,
    record_type,
    sorted_records,
    split_by_bucket,
    take_records,
)
from stages.kernels.buckets import bucket_path
from stages.kernels.uid import positions, uid_visit_order
from stages.train.added import ADDED, COMPANIONS, GONE
from stages.train.config import TrainConfig
from stages.train.weighting import SoftmaxWeighting

Halves = NDArray[np.uint64]
_UID = ["uid_hi", "uid_lo"]


class Merged(NamedTuple):
    """A finished bucket."""

    bucket: MergedBucket
    by_pass: list[int]
    """Rows of each pass."""
    num_gone: int
    """Rows of samples that left the pool."""
    num_companions: int
    """Rows of samples that kept new ones company."""


class _GrownScoresStage(Stage[TrainConfig]):
    """A score table from an earlier one and a score pass.

    Its summary lists the passes that it was made from, each with the training, its steps and the rows that are left.
    """

    measure: ClassVar[Measure]
    takes: ClassVar[Mapping[str, Schema]] = {
        "pool": POOL,
        "earlier": SCORES,
        "added": SUBSET,
        "training": MODEL,
        "trained": MODEL,
    }

    def __init__(self, config: TrainConfig, *, selector: str) -> None:
        """`config`: of the training, whose temperature weighs; `selector`: name of the score table."""
        super().__init__(config)
        self._selector = selector

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """As gathering, of both tables."""
        both = Size(inputs["earlier"].rows + inputs["training"].rows, 0)
        plan = plan_gathering({"training": both, "pool": inputs["pool"]}, rates)
        note = f"{inputs['earlier'].rows:,} scores carried over; a training from scratch would give others"
        return StagePlan(**{**vars(plan), "note": note})

    def run(self, context: StageContext) -> StageResult:
        """Split the new scores by uid prefix, then merge each bucket with what is carried over."""
        pool, earlier, training = (context.inputs[role] for role in ("pool", "earlier", "training"))
        bits = int(pool.summary["bucket_bits"])
        passes = earlier.summary.get("passes") or [_first_pass(context.inputs["trained"])]
        passes = [*passes, _pass(training, passes[-1]["first_step"] + passes[-1]["steps"])]
        visits = int(earlier.summary["visits"])
        entries = training.files(PREFIX, ".parquet")
        parts: list[SplitPart] = []
        if entries:
            split = partial(
                self._split, training=training, writer=context.output, bits=bits, first_step=passes[-1]["first_step"],
                visit=visits - 1,
            )  # fmt: skip
            work = partitions(stretches(entries, training.root), MAX_PARTITION_ROWS)
            parts = context.engine.map(split, work, name=f"{self._selector}: split", unit="rows", weigh=_partition_rows)
        merge = partial(
            _merge, pool=pool, earlier=earlier, added=context.inputs["added"], writer=context.output,
            schema=pa.schema(list(self.gives.columns.items())), steps=[each["first_step"] for each in passes],
        )  # fmt: skip
        pieces = pieces_by_bucket(parts, bits)
        merged = context.engine.map(merge, pieces, name=f"{self._selector}: merge", unit="rows", weigh=_bucket_rows)
        rows = [sum(column) for column in zip(*(each.by_pass for each in merged), strict=True)]
        files = tuple(each.bucket.file for each in merged)
        usable, num_scored = int(pool.summary["usable"]), sum(each.bucket.scored for each in merged)
        summary = {
            "selector": self._selector,
            "visits": visits,
            "rows": entries_rows(files),
            "scored": num_scored,
            "usable": usable,
            "coverage": num_scored / max(usable, 1),
            "bucket_bits": bits,
            "batched": True,
            "passes": [{**each, "rows": number} for each, number in zip(passes, rows, strict=True)],
        }
        dropped = {GONE: sum(each.num_gone for each in merged), COMPANIONS: sum(each.num_companions for each in merged)}
        seen = int(earlier.summary["rows"]) + entries_rows(entries)
        return StageResult(files, summary, Counts(seen, entries_rows(files), dropped))

    def _split(
        self,
        partition: LedgerPartition,
        *,
        training: Artifact,
        writer: ArtifactWriter,
        bits: int,
        first_step: int,
        visit: int,
    ) -> SplitPart:
        """The steps of one partition of the ledger, each score with its place in its batch."""
        table = scored(read_partition(training, partition), self.measure)
        step = table["step"].to_numpy()
        changed: dict[str, NDArray[Any]] = {
            "visit": np.full(len(step), visit, np.uint16),
            "step": (step + first_step).astype(np.int32),
        }
        if "weight" in table.column_names and self.config.method == "mimic":
            changed["weight"] = self._weights(step, table["score"].to_numpy())
        columns = {name: changed.get(name, table[name]) for name in table.column_names}
        stem = f"{partition.first_step:09d}-{partition.last_step:09d}"
        return split_by_bucket(pa.table(columns, schema=table.schema), writer, stem, bits)

    def _weights(self, step: NDArray[np.int32], score: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n] what training would have weighed these scores, each in its batch."""
        weighting = SoftmaxWeighting(self.config.temperature)
        weights = np.empty(len(step), np.float32)
        order = np.argsort(step, kind="stable")
        starts = np.flatnonzero(np.diff(step[order], prepend=step[order][:1] - 1))
        for rows in np.split(order, starts[1:]):
            batch = score[rows].astype(np.float64)
            weights[rows] = weighting.weigh(batch, np.ones(len(rows), np.bool_)).values
        return weights


class GrownMimicStage(_GrownScoresStage):
    """`scores/mimic` of a pool that grew."""

    measure: ClassVar[Measure] = "score"
    gives: ClassVar[Schema] = MIMIC


class GrownLossStage(_GrownScoresStage):
    """Minus the loss, of a pool that grew."""

    measure: ClassVar[Measure] = "loss"
    gives: ClassVar[Schema] = LOSS


def _first_pass(training: Artifact) -> dict[str, Any]:
    """The training that made the first table."""
    return _pass(training, 0)


def _pass(training: Artifact, first_step: int) -> dict[str, Any]:
    manifest = training.manifest
    return {
        "training": f"{manifest.artifact}/{manifest.fingerprint[:16]}",
        "method": training.summary["method"],
        "first_step": first_step,
        "steps": int(training.summary["steps"]),
    }


def _merge(
    pieces: BucketPieces,
    *,
    pool: Artifact,
    earlier: Artifact,
    added: Artifact,
    writer: ArtifactWriter,
    schema: pa.Schema,
    steps: list[int],
) -> Merged:
    """Put one bucket: earlier rows of samples that stay, new rows of those that were added."""
    bits = int(pool.summary["bucket_bits"])
    known = pool.read_table(bucket_path(pieces.bucket, "index"), _UID)
    fresh = added.read_table(bucket_path(pieces.bucket, ADDED), _UID)
    new = read_bucket(pieces, writer, schema)
    is_wanted = _in(fresh, new["uid_hi"], new["uid_lo"])
    old = sorted_records(rows_of_bucket(earlier, "", pieces.bucket, bits, schema.names).cast(schema))
    stays = _in(known, old["uid_hi"], old["uid_lo"]) & ~_in(fresh, old["uid_hi"], old["uid_lo"])
    records = np.concatenate([old[stays], new[is_wanted]]).astype(record_type(schema))
    hi, lo, visit = (np.ascontiguousarray(records[name]) for name in (*_UID, "visit"))
    records = take_records(records, uid_visit_order(hi, lo, visit))
    of_pass = np.searchsorted(steps, records["step"], side="right") - 1
    return Merged(
        put_bucket(records, pieces.bucket, writer=writer, schema=schema),
        np.bincount(of_pass, minlength=len(steps)).tolist(),
        int((~stays).sum()),
        int((~is_wanted).sum()),
    )


def _in(table: pa.Table, hi: Halves, lo: Halves) -> NDArray[np.bool_]:
    """[n] whether uids are among those of a sorted table."""
    return positions(*_halves(table), np.ascontiguousarray(hi), np.ascontiguousarray(lo)) >= 0


def _halves(table: pa.Table) -> tuple[Halves, Halves]:
    return table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy()


def _partition_rows(partition: LedgerPartition) -> int:
    return partition.rows


def _bucket_rows(pieces: BucketPieces) -> int:
    return pieces.rows
