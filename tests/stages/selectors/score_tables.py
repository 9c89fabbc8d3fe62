"""Reading score tables back, and running selectors with externals as the graph lists them."""

from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline.artifact import Artifact
from pipeline.config_base import Config
from pipeline.engine import Engine
from pipeline.stage import Stage
from pipeline.storage import Storage
from stages.kernels.uid import is_sorted
from tests.artifacts import listed, run_stage


def run(
    stage: Stage[Config],
    root: Path,
    pool: Artifact,
    *,
    engine: Engine | None = None,
    store: Path | None = None,
    **inputs: Artifact,
) -> Artifact:
    """Preflight, run, commit; the score table is checked for order and buckets."""
    external = {role: listed(declared.uri, declared.suffix) for role, declared in stage.external().items()}
    stage.preflight(external, Storage())
    made_from = {"pool": pool, **inputs}
    scores = run_stage(stage, root, "scores/x", inputs=made_from, external=external, engine=engine, store=store)
    bits = pool.summary["bucket_bits"]
    assert [file.path for file in scores.files()] == [f"bucket-{number:05d}.parquet" for number in range(1 << bits)]
    for number, file in enumerate(scores.files()):
        table = scores.read_table(file.path)
        stage.gives.check(table, file.path)
        assert is_sorted(table["uid_hi"].to_numpy(), table["uid_lo"].to_numpy())
        assert all(hi >> (64 - bits) == number for hi in table["uid_hi"].to_pylist())
    return scores


def frame_of(scores: Artifact) -> pl.DataFrame:
    return pl.DataFrame(pa.concat_tables(scores.tables("bucket-")))


def by_number(scores: Artifact) -> dict[int, float]:
    """Sample number (the uid's low half in the tiny pool) -> score; single visit and no step."""
    frame = frame_of(scores)
    assert frame["visit"].unique().to_list() == [0]
    assert frame["step"].unique().to_list() == [-1]
    return dict(zip(frame["uid_lo"].to_list(), frame["score"].to_list(), strict=True))
