"""Anybody's Parquet keyed by uid as a selector."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from pipeline.artifact import Counts
from pipeline.config_base import Config
from pipeline.errors import UserError
from pipeline.schema import POOL, Schema
from pipeline.stage import External, ExternalFiles, Size, StageContext, StagePlan, StageResult
from pipeline.storage import Storage
from pipeline.traffic import Traffic, sequential, writes
from stages.formats.score_parts import pieces_by_bucket
from stages.kernels.buckets import UID_BYTES, buckets_of_size, planned_pass
from stages.selectors.base import BYTES_PER_ROW, Selector
from stages.selectors.table_read import Columns, Piece, check_header, check_values, merge_rows, pieces_of, split_piece

NOT_IN_POOL = "not in the pool"
_CHECKED_EARLY = 256 << 20
_RECORD_BYTES, _PIECE_BYTES = 20, 150
"""Of a score between the passes; of what the driver holds of one bucket's rows in one piece."""


class TableConfig(Config):
    """Scores that were made elsewhere: one row a sample."""

    kind: Literal["table"]
    """Which method this is."""
    path: str
    """A Parquet file, or a folder or s3:// prefix of them."""
    uid: list[str] = Field(default_factory=lambda: ["uid"])
    """Column of the uid as hexadecimal text, or two columns with its halves, such as [uid_hi, uid_lo]."""
    score: str = "score"
    """Column of the score; higher means keep."""

    @field_validator("uid")
    @classmethod
    def _one_or_two(cls, value: list[str]) -> list[str]:
        if len(value) not in (1, 2) or len(set(value)) < len(value):
            raise ValueError(f"uid: one column of text, or two of unsigned halves, is wanted; found {value}")
        return value

    def roles(self) -> tuple[str, ...]:
        """What it is made from."""
        return ("pool",)


class TableSelector(Selector[TableConfig]):
    """The table's scores of the pool's samples; rows of other samples are counted and left out."""

    takes: ClassVar[Mapping[str, Schema]] = {"pool": POOL}

    def external(self) -> Mapping[str, External]:
        """The table."""
        missing = f"check selectors.{self.name}.path"
        return {"table": External(self.config.path, suffix=".parquet", missing=missing)}

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """Check every file's columns; the values as well where that costs little."""
        files = external["table"].files
        for file in files:
            check_header(storage, file.uri, self._columns())
        if sum(file.bytes for file in files) <= _CHECKED_EARLY:
            for piece in pieces_of(storage, [file.uri for file in files]):
                check_values(piece, storage=storage, columns=self._columns())

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """Two passes over the table."""
        rows, buckets = inputs["pool"].rows, buckets_of_size(inputs["pool"])
        pieces = max(1, rows >> 20)
        traffic = sequential(pieces, rows * BYTES_PER_ROW) + Traffic(rows * _RECORD_BYTES, pieces * buckets)
        return StagePlan(
            Size(rows, rows * BYTES_PER_ROW, buckets),
            partitions=pieces + buckets,
            peak_task_bytes=300 << 20,
            cpu_hours=rows / rates["table_rows_per_second_per_cpu"] / 3600,
            traffic=traffic + planned_pass(inputs["pool"], UID_BYTES) + writes(pieces + buckets),
            private_bytes=rows * _RECORD_BYTES,
            driver_bytes=pieces * buckets * _PIECE_BYTES,
            num_files=buckets,
        )

    def run(self, context: StageContext) -> StageResult:
        """Split the table's row groups by uid prefix, then merge each bucket with the pool's uids."""
        pool = context.inputs["pool"]
        bits = int(pool.summary["bucket_bits"])
        uris = [file.uri for file in context.external["table"].files]
        work = pieces_of(context.storage, uris)
        if not work:
            raise UserError(
                "the table has no rows",
                where=context.external["table"].uri,
                expected="a row a sample",
                found=f"{len(uris)} file(s) without any",
                next_step=f"check selectors.{self.name}.path",
            )
        split = partial(split_piece, storage=context.storage, columns=self._columns(), writer=context.output, bits=bits)
        parts = context.engine.map(split, work, name=f"{self.name}: read", unit="rows", weigh=_piece_rows)
        merge = partial(merge_rows, pool=pool, writer=context.output, uris=tuple(uris))
        found = context.engine.map(merge, pieces_by_bucket(parts, bits), name=f"{self.name}: merge")
        result = self.result(pool, [bucket.merged for bucket in found])
        outside = sum(bucket.outside for bucket in found)
        if result.summary["rows"] == 0:
            raise UserError(
                "the table has no score of any sample of the pool",
                where=context.external["table"].uri,
                expected="uids of the pool",
                found=f"{outside} other uids",
                next_step=f"check the uid column of selectors.{self.name}",
            )
        if outside:
            context.reporter.warn(f"{self.name}: {outside:,} rows of the table are of samples that the pool has not")
        rows = sum(piece.rows for piece in work)
        counts = Counts(seen=rows, out=result.summary["rows"], dropped={NOT_IN_POOL: outside})
        return StageResult(result.files, {**result.summary, "outside": outside}, counts)

    def _columns(self) -> Columns:
        return Columns(tuple(self.config.uid), self.config.score, self.name)


def _piece_rows(piece: Piece) -> int:
    return piece.rows
