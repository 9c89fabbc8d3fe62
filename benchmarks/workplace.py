"""Where and how a case runs stages: a scratch folder, an engine, one stage without a graph."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import polars as pl

from benchmarks.scale.artifacts import commit
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.nodes import NoConfig
from pipeline.progress import Reporter
from pipeline.reuse import Entries
from pipeline.stage import ExternalFiles, Stage, StageContext
from pipeline.storage import Storage
from stages.aggregate import AggregateConfig, AggregateStage
from stages.binarize import BinarizeConfig, BinarizeStage
from stages.select import SelectConfig, SelectStage
from stages.train.gather import GatherStage

_RULE = {"all": [{"basic": {"language": "any"}}, {"top": {"by": "p_keep", "fraction": 0.3}}]}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for inputs and results, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="gradsieve-bench-") as folder:
        yield Path(folder)


@contextmanager
def engine(executor: Literal["ray", "in_process"] = "ray") -> Iterator[Engine]:
    """An engine on an embedded Ray that has run a task already, or without Ray."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers give way to the contender, who is this process
    started = Engine(ClusterConfig(executor=executor), Reporter())
    try:
        started.map(abs, [-1], name="warm up")
        yield started
    finally:
        started.shutdown()


@contextmanager
def ray_data_as_it_comes() -> Iterator[None]:
    """Ray Data's own settings, progress bars aside, for a contender on the engine's Ray; ours are back afterwards."""
    from ray.data import DataContext

    context = DataContext()
    context.enable_progress_bars = False
    with DataContext.current(context):
        yield


def run_stage(
    stage: Stage[Any],
    root: Path,
    name: str,
    engine: Engine,
    *,
    inputs: Mapping[str, Artifact],
    external: Mapping[str, ExternalFiles] | None = None,
) -> Artifact:
    """Run one stage as the runner does, and commit what it made."""
    storage = Storage()
    context = StageContext(
        inputs=inputs,
        external=external or {},
        output=ArtifactWriter(str(root), storage),
        storage=storage,
        engine=engine,
        reporter=engine.reporter,
        seed=0,
        entries={kind: Entries.of(str(root), kind, storage) for kind in stage.keeps},
    )
    return commit(root, name, stage.run(context))


def paths(artifact: Artifact, prefix: str = "bucket-") -> list[str]:
    """Files of a table, as other tools are told of them."""
    return [artifact.uri(file.path) for file in artifact.files(prefix, ".parquet")]


def frame(artifact: Artifact, prefix: str = "bucket-") -> pl.DataFrame:
    """A whole table, to compare results."""
    return pl.read_parquet(paths(artifact, prefix))


def data_stages() -> dict[str, tuple[Stage[Any], str, tuple[str, ...]]]:
    """The stages from a training's ledger to a subset: stage, what it makes, what it reads."""
    return {
        "gather": (GatherStage(NoConfig()), "scores/mimic", ("pool", "training")),
        "binarize": (BinarizeStage(BinarizeConfig()), "votes", ("pool", "scores/mimic")),
        "aggregate": (AggregateStage(AggregateConfig(method="label_model")), "decisions", ("votes", "scores/mimic")),
        "select": (SelectStage(SelectConfig.model_validate({"rule": _RULE})), "subset", ("pool", "decisions")),
    }
