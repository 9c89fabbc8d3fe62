"""What the plan says of bytes, requests, files and rows is what stages then do, within 30 %.

Inputs are generated; a store that counts stands for an object store. Nothing is timed here: seconds are measured by
`python -m benchmarks.record_rates`.
"""

from collections.abc import Iterator

import pytest

from benchmarks.scale.chain import Ran, run_shards, run_tables
from pipeline.plan import size_of
from pipeline.rates import RatesConfig
from pipeline.stage import StagePlan
from pipeline.traffic import Traffic, listing
from stages.formats import ranges
from tests.counted_store import CountedStore, counted

WITHIN = 0.3
NUM_SAMPLES = 300_000
NUM_TARS, IN_A_TAR = 6, 200


class Watched:
    """Runs stages over a counting store and holds each against its plan."""

    def __init__(self, store: CountedStore) -> None:
        self.store = store
        self.before, self.written = store.traffic, 0
        self.found: dict[str, tuple[Ran, Traffic, int]] = {}

    def __call__(self, name: str, ran: Ran) -> None:
        now, written = self.store.traffic, self.store.asked["written"]
        puts = now.puts - self.before.puts - 1  # the manifest is the runner's
        traffic = Traffic(now.read_bytes - self.before.read_bytes, now.gets - self.before.gets, puts)
        self.found[name] = (ran, traffic, written - self.written)

    def begin(self, name: str) -> None:
        del name
        self.before, self.written = self.store.traffic, self.store.asked["written"]


def _held(plan: StagePlan, ran: Ran, traffic: Traffic, written: int) -> dict[str, tuple[float, float]]:
    """By quantity: (planned, real)."""
    size = size_of(ran.artifact)
    manifest = len(ran.artifact.manifest.to_json())
    return {
        "rows": (plan.output.rows, size.rows),
        "bytes": (plan.output.bytes, size.bytes),
        "files": (plan.num_files, len(ran.artifact.manifest.files)),
        "read": (plan.traffic.read_bytes, traffic.read_bytes),
        "gets": (plan.traffic.gets, traffic.gets),
        "puts": (plan.traffic.puts, traffic.puts),
        "written": (plan.output.bytes + plan.private_bytes, written - manifest),
    }


@pytest.fixture(scope="module", params=[0, 2], ids=["tables read in part", "tables read whole"])
def tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as patched, counted(patched) as store:
        watched = Watched(store)
        run_tables(tmp_path_factory.mktemp("tables"), NUM_SAMPLES, request.param, watched)
        yield watched


@pytest.mark.parametrize("stage", ["scores/clip_score", "scores/mimic", "votes", "decisions", "subset"])
def test_stage_over_tables_does_what_was_planned(stage: str, tables: Watched) -> None:
    ran, traffic, written = tables.found[stage]
    plan = ran.plan(RatesConfig().model_dump())
    for what, (planned, real) in _held(plan, ran, traffic, written).items():
        assert planned == pytest.approx(real, rel=WITHIN), what


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, dict[str, float]]]:
    root = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patched, counted(patched) as store:
        patched.setattr(
            ranges, "MAX_LOCAL_GAP", ranges.MAX_GAP
        )  # files are read as objects are, which is what is planned
        watched = Watched(store)
        run_shards(root, NUM_TARS * IN_A_TAR, shard_size=IN_A_TAR, check="headers", watch=watched)
        sizes = {name: sum(path.stat().st_size for path in (root / name).iterdir()) for name in ("tars", "metadata")}
        known = {
            "bytes_per_sample": sizes["tars"] / (NUM_TARS * IN_A_TAR),
            "metadata_bytes_per_sample": sizes["metadata"] / (NUM_TARS * IN_A_TAR),
            "samples_per_shard": float(IN_A_TAR),
        }
        yield watched, {**RatesConfig().model_dump(), **known}


def test_pool_does_what_was_planned(shards: tuple[Watched, dict[str, float]]) -> None:
    watched, rates = shards
    ran, traffic, written = watched.found["pool"]
    traffic += listing(3 * NUM_TARS) + listing(2)  # the graph's, before the stage starts
    for what, (planned, real) in _held(ran.plan(rates), ran, traffic, written).items():
        if what in ("bytes", "written"):  # of so few rows half is headers of tables
            assert planned == pytest.approx(real, rel=2 * WITHIN), what
        else:
            assert planned == pytest.approx(real, rel=WITHIN), what


def test_reshard_does_what_was_planned(shards: tuple[Watched, dict[str, float]]) -> None:
    watched, rates = shards
    ran, traffic, written = watched.found["shards"]
    for what, (planned, real) in _held(ran.plan(rates), ran, traffic, written).items():
        assert planned == pytest.approx(real, rel=WITHIN), what
