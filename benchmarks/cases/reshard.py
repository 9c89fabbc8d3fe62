"""Kept samples to new shards, 30 % kept: our stage against a plain copy of the same bytes and against webdataset.

The copy reads one file that holds just the kept bytes, writes them to another, and waits for the disk as ours does.
webdataset's reader and ShardWriter wait for no disk and keep no checksums. The page cache is warm for all.
"""

import json
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Run, run_pairs
from benchmarks.record import Line, Target
from benchmarks.scale.artifacts import committed
from benchmarks.scale.draws import rows, uniform
from benchmarks.scale.shards import put_shards
from benchmarks.scale.uids import Uids
from benchmarks.workplace import engine, run_stage, scratch
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.engine import Engine
from pipeline.stage import ExternalFiles
from pipeline.storage import Storage
from stages.formats.npy import subset_bytes
from stages.kernels.uid import to_hex
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from stages.reshard import ReshardStage
from stages.reshard_config import ReshardConfig

KEPT = 0.3
_DRAW = 90


class _Size(NamedTuple):
    samples: int
    shard_size: int
    copy_pairs: int
    webdataset_samples: int
    """Fewer, as it takes many times as long."""
    webdataset_pairs: int


_SIZES = {"short": _Size(20_000, 2_500, 2, 4_000, 1), "full": _Size(120_000, 5_000, 10, 20_000, 10)}


def measure(form: str) -> list[Line]:
    """Two lines."""
    size = _SIZES[form]
    with engine() as ours:
        return [_against_copy(size, ours), _against_webdataset(size, ours)]


class _Contenders:
    """A pool with a subset, what makes shards of it, and what was kept."""

    def __init__(self, folder: Path, num_samples: int, shard_size: int, engine_: Engine) -> None:
        uids = Uids(num_samples)
        put_shards(folder / "shards", uids, shard_size=shard_size)
        self.inputs = {"pool": _index(folder, engine_), "subset": _subset(folder, uids)}
        self.num_kept = int(self.inputs["subset"].summary["kept"])
        self.kept = folder / "kept"
        """All kept bytes in one file, once our stage has run."""
        self._folder, self._shard_size, self._engine = folder, shard_size, engine_
        self._numbers = iter(range(1 << 30))

    def ours(self) -> Run:
        out = self._folder / f"ours-{next(self._numbers)}"
        begun = time.perf_counter()
        made = _ours(self._engine, self.inputs, self._folder, self._shard_size, out)
        seconds = time.perf_counter() - begun
        if not self.kept.exists():
            _check(made, self.inputs["subset"], self._folder)
            _join(made, self.kept)
        shutil.rmtree(out)
        return Run(seconds, {"samples": made.summary["samples"], "bytes": made.summary["bytes"]})

    def copy(self) -> Run:
        begun = time.perf_counter()
        _copy(self.kept, self._folder / "copied")
        return Run(time.perf_counter() - begun, {"samples": self.num_kept, "bytes": self.kept.stat().st_size})

    def webdataset(self) -> Run:
        out = self._folder / f"webdataset-{next(self._numbers)}"
        out.mkdir()
        begun = time.perf_counter()
        num_samples = _webdataset(self._folder, self._shard_size, out)
        seconds = time.perf_counter() - begun
        shutil.rmtree(out)
        assert num_samples == self.num_kept, f"webdataset found {num_samples} samples, expected {self.num_kept}"
        return Run(seconds, {"samples": num_samples})


def _against_copy(size: _Size, engine_: Engine) -> Line:
    with scratch() as folder:
        found = _Contenders(folder, size.samples, size.shard_size, engine_)
        pairs = run_pairs(found.ours, found.copy, size.copy_pairs)
    return Line(
        "reshard, 30 % kept",
        "sequential copy of the kept bytes",
        pairs.slowdown(),
        Target(2, "lower"),
        len(pairs),
        {"pool": size.samples, **pairs.ours[0].counts},
        pairs.seconds(),
    )


def _against_webdataset(size: _Size, engine_: Engine) -> Line:
    with scratch() as folder:
        found = _Contenders(folder, size.webdataset_samples, size.shard_size, engine_)
        pairs = run_pairs(found.ours, found.webdataset, size.webdataset_pairs, warm_up=1, same_counts=False)
    return Line(
        "reshard, 30 % kept, times faster",
        "webdataset reader to ShardWriter",
        pairs.speedup(),
        Target(3, "higher"),
        len(pairs),
        {"pool": size.webdataset_samples, **pairs.ours[0].counts},
        pairs.seconds(),
    )


def _index(folder: Path, engine_: Engine) -> Artifact:
    stage = PoolStage(PoolConfig(path=str(folder / "shards"), check="headers"))
    return run_stage(stage, folder / "pool", "pool", engine_, inputs={}, external=_shards(folder))


def _shards(folder: Path) -> dict[str, ExternalFiles]:
    root = str(folder / "shards")
    return {"shards": ExternalFiles(root, tuple(Storage().list(root, suffix=".tar")))}


def _subset(folder: Path, uids: Uids) -> Artifact:
    rank = rows(0, uids.num_samples)
    rank = rank[uniform(rank, uids.seed, _DRAW) < KEPT]
    root = folder / "subset"
    data = subset_bytes(uids.hi(rank), uids.lo(rank))
    entry = ArtifactWriter(str(root), Storage()).put_bytes("sample_ids.npy", data, rows=len(rank))
    return committed(root, "subset", [entry], {"kept": len(rank)}, len(rank))


def _stage(folder: Path, shard_size: int) -> ReshardStage:
    return ReshardStage(ReshardConfig(shard_size=shard_size), pool_path=str(folder / "shards"))


def _ours(engine_: Engine, inputs: dict[str, Artifact], folder: Path, shard_size: int, out: Path) -> Artifact:
    return run_stage(_stage(folder, shard_size), out, "shards", engine_, inputs=inputs, external=_shards(folder))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _join(made: Artifact, target: Path) -> None:
    with target.open("wb") as sink:
        for file in made.files(suffix=".tar"):
            sink.write(made.read_bytes(file.path))


def _webdataset(folder: Path, shard_size: int, out: Path) -> int:
    """As one would write it: read samples, look the uid up, write what is kept."""
    import webdataset

    wanted = set(np.load(folder / "subset" / "sample_ids.npy").tolist())
    urls = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    num_samples = 0
    with webdataset.ShardWriter(str(out / "%08d.tar"), maxcount=shard_size, verbose=0) as sink:
        for sample in webdataset.WebDataset(urls, shardshuffle=False):
            uid = json.loads(sample["json"])["uid"]
            if (int(uid[:16], 16), int(uid[16:32], 16)) in wanted:
                sink.write(
                    {name: data for name, data in sample.items() if not name.startswith("__") or name == "__key__"}
                )
                num_samples += 1
    return num_samples


def _check(made: Artifact, subset: Artifact, folder: Path) -> None:
    """Every kept sample is there once, with the bytes that it has in the pool."""
    records = np.load(folder / "subset" / "sample_ids.npy")
    wanted = set(to_hex(records["f0"], records["f1"]).to_pylist())
    ours = _members(sorted(Path(made.root).glob("*.tar")))
    pool = _members(sorted((folder / "shards").glob("*.tar")))
    assert len(ours) == 3 * subset.summary["kept"], f"{len(ours)} members of {subset.summary['kept']} samples"
    assert all(pool[name] == data for name, data in ours.items()), "a member's bytes are not those of the pool"
    uids = {json.loads(data)["uid"] for name, data in ours.items() if name.endswith(".json")}
    assert uids == wanted, "other samples than the subset's"


def _members(tars: list[Path]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in tars:
        with tarfile.open(path) as tar:
            found |= {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    return found
