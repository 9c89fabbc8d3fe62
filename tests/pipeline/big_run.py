"""`python -m tests.pipeline.big_run FOLDER`: two stages on Ray, the second with large results; exit code as a run's."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from pipeline.artifact import Counts
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.errors import GradsieveError
from pipeline.graph import Graph, Node, Place
from pipeline.progress import Reporter
from pipeline.run_record import RunRecord
from pipeline.runner import Runner
from pipeline.schema import Schema
from pipeline.stage import Size, Stage, StageContext, StagePlan, StageResult
from pipeline.storage import Storage
from tests.pipeline.toy_stages import EvenConfig, NumbersConfig

STORE = 80 << 20
"""Bytes of shared memory, about the least that Ray takes."""
RESULT = 100 << 20


class Big(Stage[EvenConfig]):
    """Two tasks whose results do not fit into Ray's shared memory."""

    takes: ClassVar[Mapping[str, Schema]] = {"numbers": Schema({"n": pa.int64()})}
    gives = Schema()

    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        return StagePlan(Size(0, 0))

    def run(self, context: StageContext) -> StageResult:
        results = context.engine.map(_result, [RESULT, RESULT], name="big results")
        entry = context.output.put_bytes("sizes.txt", " ".join(str(len(result)) for result in results).encode(), rows=2)
        return StageResult((entry,), {}, Counts(2, 2))


def _result(size: int) -> bytes:
    return bytes(size)


def main() -> int:
    """Run, and tell."""
    output = str(Path(sys.argv[1]) / "out")
    nodes = (
        Node("numbers", "numbers", "tests.pipeline.toy_stages:Numbers", NumbersConfig()),
        Node("big", "big", "tests.pipeline.big_run:Big", EvenConfig(), {"numbers": "numbers"}),
    )
    graph = Graph(nodes, Place(output, f"{output}/store", Storage()), seed=0)
    config = ClusterConfig(num_cpus=2, object_store_memory=STORE, stalled_after_seconds=60.0)
    engine = Engine(config, Reporter())
    record = RunRecord(output, Storage(), {}, [node.name for node in nodes])
    try:
        artifacts = Runner(graph, engine, Reporter()).run(record)
    except GradsieveError as error:
        print(f"error: {error}")
        return error.exit_code
    finally:
        engine.shutdown()
    print(artifacts["big"].read_bytes("sizes.txt").decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
