"""The code paths that read input, from preflight to result."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.config_base import Config
from pipeline.stage import StageResult
from pipeline.storage import Storage
from stages.formats.image import decode_image
from stages.formats.pair import pair_of
from stages.formats.tar import read_members
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from stages.select import SelectConfig, SelectStage
from stages.selectors.table import TableConfig, TableSelector
from stages.train.config import TrainConfig
from stages.train.loader import Loader, LoaderSpec
from stages.train.reference import ReferenceStage
from stages.train.reference_config import ReferenceConfig
from stages.train.trusted import TrustedStage
from tests.artifacts import commit, listed, run_stage
from tests.bad_input.case import Observed
from tests.stages.models.tiny import TINY
from tests.stages.pool.pools import pair, shard_bytes
from tests.stages.selectors.score_tables import frame_of, run
from tests.stages.train.tiny_pool import make_pool as make_trained_pool
from tests.stages.uid_tables import make_pool, put_buckets, random_uids

NUM_SAMPLES = 8
"""Samples of the pool that tables, lists and subsets speak of."""


@dataclass(frozen=True)
class Pool:
    """Shards and metadata to read, one whole shard among them."""

    bad: bytes
    """A shard."""
    good: Sequence[int] = ()
    """Numbers of the usable samples in it."""
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    max_quarantined: float = 0.95


_WHOLE = (900, 901)
"""Numbers of the samples in the shard beside the bad one."""


def through_pool(build: Callable[[Path], Pool], root: Path) -> Observed:
    """Index the pool, and read each sample in the index as training reads it."""
    pool = build(root)
    for name, data in {"00000000.tar": shard_bytes([pair(n) for n in _WHOLE]), "00000001.tar": pool.bad}.items():
        _write(root / "shards" / name, data)
    for name, data in pool.metadata.items():
        _write(root / "meta" / name, data)
    metadata = str(root / "meta") if pool.metadata else None
    stage = PoolStage(PoolConfig(path=str(root / "shards"), metadata=metadata, max_quarantined=pool.max_quarantined))
    external = {role: listed(found.uri, found.suffix) for role, found in stage.external().items()}
    stage.preflight(external, Storage())
    artifact = run_stage(stage, root / "pool", "pool", external=external)
    reasons = Counter(artifact.summary["quarantine_reasons"])
    lost = _unreadable(artifact, root / "shards", {pair(n).uid or "" for n in (*_WHOLE, *pool.good)})
    told = artifact.read_table("quarantine.parquet")
    lost += [f"an unnamed row of the quarantine: {row}" for row in told.to_pylist() if not row["detail"]]
    if reasons:
        return Observed("quarantined", ", ".join(sorted(reasons)), tuple(lost))
    changed = [name for name, count in artifact.summary["normalised"].items() if count]
    return Observed("accepted", ", ".join(sorted(changed)), tuple(lost))


def _unreadable(pool: Artifact, shards: Path, wanted: set[str]) -> list[str]:
    """Good samples that the index lacks, and samples in it that training could not read."""
    paths = pool.read_table("shards.parquet")["path"].to_pylist()
    lost = []
    for row in pa.concat_tables(pool.tables("index/")).to_pylist():
        data = (shards / paths[row["shard"]]).read_bytes()[row["offset"] : row["offset"] + row["length"]]
        found = pair_of(read_members(data))
        pixels = decode_image(found.image, 16)
        if pixels.shape != (3, 16, 16) or len(found.caption) != row["text_len"]:
            lost.append(f"{row['key']} is not what the index says")
        wanted.discard(f"{row['uid_hi']:016x}{row['uid_lo']:016x}")
    return lost + sorted(wanted)


def through_table(build: Callable[[Path], Mapping[str, bytes]], scores: int, root: Path) -> Observed:
    """Take score tables as a selector; `scores` of the pool's samples are to get one."""
    pool, _ = make_trained_pool(root / "tiny", [NUM_SAMPLES])
    for name, data in build(root).items():
        _write(root / "tables" / name, data)
    selector = TableSelector(TableConfig(kind="table", path=str(root / "tables")), name="mine", pool_path="")
    found = frame_of(run(selector, root / "scores", pool))
    told = () if found.height == scores else (f"{found.height} scores instead of {scores}",)
    return Observed("accepted", "", told)


def through_select(name: str, build: Callable[[Path], bytes], excluded: int, root: Path) -> Observed:
    """Choose a subset with an exclusion list, by which `excluded` of the pool's samples must go."""
    _write(root / name, build(root))
    hi, lo = random_uids(NUM_SAMPLES)
    pool = make_pool(root / "pool", hi, lo)
    columns = {"uid_hi": hi, "uid_lo": lo, "p_keep": np.linspace(0, 1, NUM_SAMPLES, dtype=np.float32)}
    counted = {"pattern": np.ones(NUM_SAMPLES, np.uint64), "mean_score": columns["p_keep"]}
    writer = ArtifactWriter(str(root / "decisions"), Storage())
    files = put_buckets(writer, pa.table({**columns, **counted, "score__mimic": columns["p_keep"]}), 0)
    summary = {"scales": {"mimic": "batch_rank"}, "method": "label_model", "bucket_bits": 0}
    decisions = commit(root / "decisions", "decisions", StageResult(files, summary))
    rule = {"top": {"by": "p_keep", "fraction": 1.0, "of": "pool"}}
    stage = SelectStage(SelectConfig.model_validate({"rule": rule, "exclude": [str(root / name)]}))
    external = {role: listed(found.uri, found.suffix) for role, found in stage.external().items()}
    stage.preflight(external, Storage())
    subset = run_stage(stage, root / "subset", "subset", inputs={"pool": pool, "decisions": decisions})
    kept = len(np.load(subset.uri("sample_ids.npy")))
    told = () if kept == NUM_SAMPLES - excluded else (f"{kept} kept of {NUM_SAMPLES}, {excluded} were to go",)
    return Observed("accepted", "", told)


def through_training(build: Callable[[Path], bytes], samples: int, root: Path) -> Observed:
    """Open a subset file before work starts, then behind the pool, and train on what it lists.

    What the one lets through, the other must not refuse.
    """
    pool, shards = make_trained_pool(root / "tiny", [NUM_SAMPLES])
    path = root / "trusted.npy"
    _write(path, build(root))
    stage = TrustedStage(Config(), listed=str(path))
    external = {"listed": listed(path)}
    stage.preflight(external, Storage())
    try:
        trusted = run_stage(stage, root / "subset", "subset_trusted", inputs={"pool": pool}, external=external)
    except Exception as error:
        return Observed("refused after work had begun", str(error))
    files = (trusted.uri("sample_ids.npy"),)
    spec = LoaderSpec(pool=pool, pool_path=shards, model=TINY, seed=0, lanes=1, window=4, batch_size=2, samples=files)
    loader = Loader(spec, 0, 1)
    found = sum(len(batch.uid_hi) for batch in loader.iterate(0))
    counted = (found, trusted.summary["kept"])
    told = () if counted == (samples, samples) else (f"{counted} samples instead of {samples}",)
    return Observed("accepted", "", told)


def through_reference(name: str, build: Callable[[Path], bytes], root: Path) -> Observed:
    """Check weights from outside, before work starts."""
    _write(root / name, build(root))
    stage = ReferenceStage(ReferenceConfig(source=str(root / name)), pool_path="", train=_train_config())
    stage.preflight({}, Storage())
    return Observed("accepted", "")


def _train_config() -> TrainConfig:
    return TrainConfig(model=TINY, epochs=1, batch_size=2, lanes=1, window=4)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
