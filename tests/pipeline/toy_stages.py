"""Stages small enough to see through, for tests of the graph and the runner."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from pipeline.artifact import Counts
from pipeline.config_base import Config, placement
from pipeline.errors import RunError, UserError
from pipeline.schema import Schema
from pipeline.stage import External, ExternalFiles, Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage

CALLS: list[str] = []
"""Names of stages that ran, in order."""


class NumbersConfig(Config):
    count: int = 10
    source: str | None = None
    refuse: bool = False
    width: int = placement(1)


class Numbers(Stage[NumbersConfig]):
    """A table of the first `count` numbers."""

    takes: ClassVar[Mapping[str, Schema]] = {}
    gives = Schema({"n": pa.int64()})

    def external(self) -> Mapping[str, External]:
        return {"source": External(self.config.source, missing="make it")} if self.config.source else {}

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        if self.config.refuse:
            raise UserError("refused before work")

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        return StagePlan(Size(self.config.count, 8 * self.config.count), gpu_hours=2.0, cpu_hours=10.0)

    def run(self, context: StageContext) -> StageResult:
        CALLS.append("numbers")
        entry = context.output.put_table("n.parquet", pa.table({"n": pa.array(range(self.config.count), pa.int64())}))
        return StageResult((entry,), {"rows": entry.rows}, Counts(entry.rows, entry.rows))


class EvenConfig(Config):
    divisor: int = 2
    lose: int = 0
    fail: bool = False
    spoil: str | None = None
    peek: str | None = None


class Even(Stage[EvenConfig]):
    """Rows of `numbers` that the divisor divides; can be told to lose rows, fail, or look elsewhere."""

    takes: ClassVar[Mapping[str, Schema]] = {"numbers": Schema({"n": pa.int64()})}
    gives = Schema({"n": pa.int64()})

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        return StagePlan(Size(inputs["numbers"].rows // self.config.divisor, 0))

    def run(self, context: StageContext) -> StageResult:
        CALLS.append("even")
        if self.config.spoil:  # nothing can be put in the place of a folder
            Path(self.config.spoil).unlink()
            Path(self.config.spoil).mkdir()
        if self.config.fail:
            raise RunError("a task failed", where="shard 7")
        if self.config.peek:
            context.storage.read_bytes(self.config.peek)
        rows = context.inputs["numbers"].read_table("n.parquet")["n"].to_pylist()
        kept = [row for row in rows if row % self.config.divisor == 0]
        entries = [context.output.put_bytes(f"{row}.txt", str(row).encode(), rows=1) for row in kept]
        dropped = len(rows) - len(kept) - self.config.lose
        return StageResult(
            tuple(entries), {"kept": len(kept), "seed": context.seed}, Counts(len(rows), len(kept), {"odd": dropped})
        )


class WantsText(Stage[EvenConfig]):
    """Needs a column that nobody gives."""

    takes: ClassVar[Mapping[str, Schema]] = {"numbers": Schema({"text": pa.string()})}
    gives = Schema()

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        return StagePlan(Size(0, 0))

    def run(self, context: StageContext) -> StageResult:
        raise AssertionError


class SquaresConfig(Config):
    power: int = 2
    peek: str | None = None


class Squares(Stage[SquaresConfig]):
    """A power of each number; one entry a number, that other runs may find."""

    takes: ClassVar[Mapping[str, Schema]] = {"numbers": Schema({"n": pa.int64()})}
    gives = Schema()

    @property
    def keeps(self) -> tuple[str, ...]:
        return ("squares",)

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        return StagePlan(inputs["numbers"])

    def run(self, context: StageContext) -> StageResult:
        entries, used, values = context.entries["squares"], [], []
        if self.config.peek:
            context.storage.read_bytes(self.config.peek)
        for number in context.inputs["numbers"].read_table("n.parquet")["n"].to_pylist():
            key = entries.key(self.config.power, number)
            entry = entries.find(key)
            if entry is None:
                CALLS.append(f"square {number}")
                data = str(number**self.config.power).encode()
                entry = entries.commit(key, [entries.writer(key).put_by_content("value", ".txt", data)], {})
            used.append(entries.name(key))
            values.append(entry.read_bytes(entry.files()[0].path).decode())
        file = context.output.put_bytes("squares.txt", ",".join(values).encode())
        return StageResult((file,), {"squares": len(values)}, entries=tuple(used))
