"""How well image and caption of a sample agree, by a CLIP model: from the metadata, or by the reference itself."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from pipeline.config_base import Config
from pipeline.errors import UserError
from pipeline.schema import MODEL, POOL, Schema
from pipeline.stage import External, Size, StageContext, StagePlan, StageResult
from pipeline.traffic import Traffic, sequential, writes
from stages.formats.metadata_columns import TypeTest, is_number
from stages.formats.score_parts import merge_bucket, pieces_by_bucket
from stages.kernels.buckets import buckets_of_size
from stages.selectors.base import TABLE, Partition, Scores, SelectorStage
from stages.selectors.clip_encode import CLIP_SCORES, SLICE_ROWS, OrderSlice, score_slices, tasks

_TASK_BYTES = 1 << 30
_RECORD_BYTES = 26
"""Of a score between the passes."""
_PIECE_BYTES = 150
"""Of what the driver holds of one bucket's rows in one slice."""


class ClipScoreConfig(Config):
    """Cosine similarity of image and caption; give `column` or `model`."""

    kind: Literal["clip_score"]
    """Which method this is."""
    column: str | None = None
    """Metadata column that holds it, such as clip_l14_similarity_score."""
    model: Literal["reference"] | None = None
    """Encode the pool with the reference model; takes a pass over all images."""
    use_gpu: bool = False
    """Encode on GPUs, one a task."""

    @model_validator(mode="after")
    def _one_source(self) -> "ClipScoreConfig":
        if (self.column is None) == (self.model is None):
            raise ValueError("give either `column` (of the metadata) or `model: reference`")
        if self.use_gpu and self.model is None:
            raise ValueError("`use_gpu` has no effect on a metadata `column`")
        return self

    def roles(self) -> tuple[str, ...]:
        """What it is made from."""
        return ("pool",) if self.column is not None else ("pool", "reference")


class ClipScoreSelector(SelectorStage[ClipScoreConfig]):
    """One score for each sample; from metadata, none where the column is null."""

    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL, "reference": MODEL}
    version: ClassVar[int] = 2

    @property
    def keeps(self) -> tuple[str, ...]:
        """What the reference gave for a stretch of a shard."""
        return (CLIP_SCORES,) if self.config.model is not None else ()

    def metadata_types(self) -> Mapping[str, TypeTest]:
        """The column, if the score is one."""
        return {self.config.column: is_number} if self.config.column is not None else {}

    def external(self) -> Mapping[str, External]:
        """The metadata's header, or the pool's shards; the pool artifact vouches for the content of both."""
        if self.config.column is not None:
            return super().external()
        return {"shards": External(self.pool_path, identity=False, suffix=".tar")}

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """One pass over the index, or over all images."""
        plan = super().plan(inputs, rates)
        if self.config.column is not None:
            return plan
        rows, buckets = inputs["pool"].rows, buckets_of_size(inputs["pool"])
        num_tasks, in_a_shard = max(1, -(-rows // SLICE_ROWS)), max(1, int(rates["samples_per_shard"]))
        num_slices = max(1, -(-rows // in_a_shard) * -(-in_a_shard // SLICE_ROWS))
        stored = int(rows * rates["bytes_per_sample"])
        pieces = min(rows, num_slices * buckets)
        # Of a slice its rows are read in the order table, its entry is asked for, and what was put is read again.
        traffic = (
            sequential(num_slices, stored)
            + Traffic(2 * rows * _RECORD_BYTES, pieces + 5 * num_slices)
            + writes(2 * num_slices + buckets)
        )
        on = "gpu" if self.config.use_gpu else "cpu"
        hours = rows / rates[f"score_samples_per_second_per_{on}"] / 3600
        return StagePlan(
            plan.output,
            partitions=num_tasks + buckets,
            peak_task_bytes=_TASK_BYTES,
            gpu_hours=hours if self.config.use_gpu else 0.0,
            cpu_hours=0.0 if self.config.use_gpu else hours,
            traffic=traffic,
            private_bytes=rows * _RECORD_BYTES,
            driver_bytes=pieces * _PIECE_BYTES,
            num_files=buckets,
        )

    def score(self, partition: Partition, state: Any) -> Scores:
        """The column where it is not null."""
        del state
        assert self.config.column is not None
        table = partition.read(["uid_hi", "uid_lo", self.config.column])
        table = table.filter(table[self.config.column].is_valid())
        uid_hi, uid_lo = table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy()
        with np.errstate(over="ignore"):  # what does not fit is refused below, by name
            score = table[self.config.column].to_numpy().astype(np.float32)
        finite = np.isfinite(score)
        if not finite.all():
            row = int(np.argmin(finite))
            raise UserError(
                f"metadata column {self.config.column} has values that cannot be ranked",
                where=f"selectors.{self.name}, uid {int(uid_hi[row]):016x}{int(uid_lo[row]):016x}",
                expected="finite numbers; null where there is none",
                found=f"{int((~finite).sum())} of {len(score)} in {partition.path}, the first is {score[row]}",
                next_step="write null instead: such samples then have no score",
            )
        return Scores(uid_hi, uid_lo, score)

    def run(self, context: StageContext) -> StageResult:
        """Take the column, or encode the pool in the order of its shards and merge the scores by uid."""
        if self.config.column is not None:
            return super().run(context)
        pool = context.inputs["pool"]
        bits = int(pool.summary["bucket_bits"])
        encode = partial(
            score_slices,
            pool=pool,
            pool_path=context.external["shards"].uri,
            reference=context.inputs["reference"],
            entries=context.entries[CLIP_SCORES],
            bits=bits,
            device="cuda" if self.config.use_gpu else "cpu",
        )
        done = context.engine.map(
            encode,
            tasks(pool),
            name=f"{self.name}: encode",
            unit="samples",
            weigh=_rows_of,
            num_gpus=1.0 if self.config.use_gpu else 0.0,
        )
        merge = partial(merge_bucket, writer=context.output, schema=TABLE)
        scored = [piece for pieces in done for piece in pieces]
        parts = pieces_by_bucket([piece.part for piece in scored], bits)
        merged = context.engine.map(merge, parts, name=f"{self.name}: merge")
        return self.result(pool, merged, [piece.entry for piece in scored])


def _rows_of(pieces: tuple[OrderSlice, ...]) -> int:
    return sum(piece.rows for piece in pieces)
