"""Each stage on generated inputs of any size, in this process: what the cost model is fitted on and held against."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from benchmarks.scale.artifacts import commit, committed
from benchmarks.scale.ledgers import put_ledger
from benchmarks.scale.metadata import metadata_columns, put_datacomp_files
from benchmarks.scale.shards import Pictures, put_shards
from benchmarks.scale.tables import put_pool
from benchmarks.scale.uids import Uids
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.nodes import NoConfig
from pipeline.plan import size_of
from pipeline.progress import Reporter
from pipeline.reuse import Entries
from pipeline.stage import ExternalFiles, Size, Stage, StageContext, StagePlan
from pipeline.storage import Storage
from stages.aggregate import AggregateConfig, AggregateStage
from stages.binarize import BinarizeConfig, BinarizeStage
from stages.formats.npy import subset_bytes
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from stages.reshard import ReshardStage
from stages.reshard_config import ReshardConfig
from stages.select import SelectConfig, SelectStage
from stages.selectors.clip_score import ClipScoreConfig, ClipScoreSelector
from stages.train.gather import GatherStage

COLUMN = "clip_b32_similarity_score"
RULE = {
    "all": [{"clip_score": {"arch": "b32", "fraction": 0.3}}, {"not": {"bottom": {"by": "mimic", "fraction": 0.05}}}]
}
"""That of the shipped configurations of DataComp's scales."""


@dataclass(frozen=True)
class Ran:
    """A stage that was run."""

    artifact: Artifact
    stage: Stage[Any]
    inputs: Mapping[str, Artifact]
    seconds: float
    """Of one core, all threads of this process together."""

    def plan(self, rates: Mapping[str, float], **inputs: Size) -> StagePlan:
        """What would have been foretold, from the true sizes of the inputs or from others."""
        return self.stage.plan({**{role: size_of(artifact) for role, artifact in self.inputs.items()}, **inputs}, rates)


class Watch(Protocol):
    """Hears of each stage."""

    def begin(self, name: str) -> None:
        """A stage is about to run; its inputs are there."""

    def __call__(self, name: str, ran: Ran) -> None:
        """It was run, and its artifact committed."""


def run_tables(
    root: Path, num_samples: int, num_bits: int, watch: Watch | None = None, *, visits: int = 1
) -> dict[str, Ran]:
    """Gather, a selector, votes, decisions and subset of a pool whose tables are generated; by the artifact's name."""
    uids = Uids(num_samples, seed=num_samples)
    pool = put_pool(root / "pool", uids, num_bits, lambda rank: metadata_columns(uids, rank))
    training = put_ledger(root / "training", uids, visits, num_ranks=8)
    done: dict[str, Ran] = {}

    def run(name: str, stage: Stage[Any], **inputs: Artifact) -> Artifact:
        named = {role.replace("__", "/"): artifact for role, artifact in inputs.items()}
        done[name] = _run(root / name, name, stage, named, watch=watch)
        return done[name].artifact

    clip = ClipScoreSelector(
        ClipScoreConfig(kind="clip_score", column=COLUMN), name="clip_score", pool_path="", metadata=None
    )
    scores = {
        "scores__clip_score": run("scores/clip_score", clip, pool=pool),
        "scores__mimic": run("scores/mimic", GatherStage(NoConfig()), pool=pool, training=training),
    }
    voting = BinarizeConfig.model_validate({"fraction": 0.3, "voters": {"mimic": {}}})
    votes = run("votes", BinarizeStage(voting), pool=pool, **scores)
    averaging = AggregateConfig(method="mean_score")
    decisions = run("decisions", AggregateStage(averaging), votes=votes, **scores)
    rule = SelectConfig.model_validate({"rule": RULE})
    run("subset", SelectStage(rule), pool=pool, decisions=decisions, **scores)
    return done


def run_shards(
    root: Path, num_samples: int, *, shard_size: int, check: str, side: int = 256, watch: Watch | None = None
) -> dict[str, Ran]:
    """The pool stage on real tars with metadata, and resharding of every third sample; by the artifact's name."""
    uids = Uids(num_samples, seed=num_samples)
    if not (root / "tars").exists():
        put_shards(root / "tars", uids, shard_size=shard_size, pictures=Pictures(side=side))
        put_datacomp_files(root / "metadata", uids, 2)
    config = PoolConfig.model_validate(
        {
            "path": str(root / "tars"),
            "metadata": str(root / "metadata"),
            "check": check,
            "expected_samples": num_samples,
        }
    )
    external = {"shards": _listed(root / "tars", ".tar"), "metadata": _listed(root / "metadata", ".parquet")}
    pool = _run(root / f"pool-{check}", "pool", PoolStage(config), {}, external, watch)
    subset = _third(root / f"subset-{check}", pool.artifact)
    stage = ReshardStage(ReshardConfig(shard_size=shard_size), pool_path=str(root / "tars"))
    external = {"shards": external["shards"]}
    shards = _run(root / f"shards-{check}", "shards", stage, {"pool": pool.artifact, "subset": subset}, external, watch)
    return {"pool": pool, "shards": shards}


def _run(
    root: Path,
    name: str,
    stage: Stage[Any],
    inputs: Mapping[str, Artifact],
    external: Mapping[str, ExternalFiles] | None = None,
    watch: Watch | None = None,
) -> Ran:
    reporter = Reporter()
    context = StageContext(
        inputs=inputs,
        external=external or {},
        output=ArtifactWriter(str(root), Storage(), overwrite=name == "shards"),
        storage=Storage(),
        engine=Engine(ClusterConfig(executor="in_process"), reporter),
        reporter=reporter,
        seed=0,
        entries={kind: Entries.of(str(root), kind, Storage()) for kind in stage.keeps},
    )
    if watch is not None:
        watch.begin(name)
    begun = time.process_time()
    result = stage.run(context)
    seconds = time.process_time() - begun
    ran = Ran(commit(root, name, result), stage, inputs, seconds)
    if watch is not None:
        watch(name, ran)
    return ran


def _third(root: Path, pool: Artifact) -> Artifact:
    """Every third sample, in uid order."""
    table = pa.concat_tables(list(pool.tables("index/", ["uid_hi", "uid_lo"]))).take(
        pa.array(range(0, int(pool.summary["usable"]), 3))
    )
    hi, lo = (table[name].to_numpy() for name in ("uid_hi", "uid_lo"))
    entry = ArtifactWriter(str(root), Storage()).put_bytes("sample_ids.npy", subset_bytes(hi, lo), rows=len(hi))
    return committed(root, "subset", [entry], {"kept": len(hi)}, len(hi))


def _listed(folder: Path, suffix: str) -> ExternalFiles:
    return ExternalFiles(str(folder), tuple(Storage().list(str(folder), suffix=suffix)))
