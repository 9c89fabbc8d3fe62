"""Whole runs as jobs of a cluster of several nodes, over a bucket: submitted, disturbed, and the same in the end.

A head that takes no work, two workers, a real S3 server. `tests/cluster/test_hosts.py` has machines that share less.
"""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.artifact import Artifact
from pipeline.progress import Reporter
from pipeline.verify import verify
from tests.cluster.bucket import BUCKET, Bucket
from tests.cluster.submitting import Submitter, drivers_of
from tests.crash.nodes import MAP, RANK, Nodes, nodes
from tests.crash.scenes import ROOT
from tests.long_runs import long_runs
from tests.servers.fault_proxy import FaultProxy

pytestmark = long_runs("make cluster-test", seconds=2400)
NO_EVALUATION = "evaluate=off"


@dataclass
class Site:
    """A cluster, who submits to it, and the bucket that its nodes reach."""

    nodes: Nodes
    submitter: Submitter
    bucket: Bucket

    def is_trained_on_both(self) -> bool:
        return len(self.nodes.hosts_of(RANK)) == 2

    def check(self, output: str) -> None:
        """Of a run without evaluation: it has the bytes that it must have, and all of them."""
        self.bucket.check(output, without=("evaluation",))
        with self.bucket.store.signed():
            verdict = verify(output, self.bucket.storage(), Reporter())
        assert verdict.differences == []


@pytest.fixture(scope="module")
def started(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        **bucket.environment(),
    }
    work = tmp_path_factory.mktemp("submitted") / "work"
    work.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        with nodes(workers=2, cpus=1, dashboard=True) as made:
            yield Site(made, Submitter(work, made.dashboard), bucket)


@pytest.fixture
def site(started: Site) -> Site:
    """The cluster with two workers, whatever the test before did to it."""
    while len(started.nodes.workers) > 2:
        started.nodes.kill(0)
    while len(started.nodes.workers) < 2:
        started.nodes.add(cpus=1)
    return started


@pytest.fixture(scope="module")
def undisturbed(started: Site) -> str:
    """A run that was submitted as Ray's own users do it, from the root of this repository; its output."""
    output = started.bucket.output("undisturbed")
    submitted = started.submitter.start_with_ray(*started.bucket.words(output), working_dir=ROOT)
    on_head: list[bool] = []

    def trained() -> bool:
        on_head.append(started.nodes.head_runs(RANK) or started.nodes.head_runs(MAP))
        return started.is_trained_on_both()

    submitted.wait_until(trained, "ranks on two nodes")
    code, shown = submitted.end()
    assert code == 0, shown
    assert not any(on_head)
    return output


def test_run_submitted_by_ray_ends_in_the_digests_of_one_on_disk(bucket: Bucket, undisturbed: str) -> None:
    bucket.check(undisturbed)


def test_two_submissions_at_once_end_in_one_run_and_one_refusal(site: Site, undisturbed: str) -> None:
    output = site.bucket.output("twice")
    site.bucket.copy_until(undisturbed, output, "training/mimic")
    both = [site.submitter.start(*site.bucket.words(output, NO_EVALUATION)) for _ in range(2)]
    ended = sorted(submitted.end() for submitted in both)
    assert [code for code, _ in ended] == [0, 3], ended
    assert "another run is writing here" in ended[1][1]
    site.check(output)


def test_run_whose_driver_is_killed_goes_on_when_it_is_submitted_again(site: Site, undisturbed: str) -> None:
    output = site.bucket.output("driver_killed")
    words = site.bucket.words(output, NO_EVALUATION)
    site.bucket.copy_until(undisturbed, output, "training/mimic")
    submitted = site.submitter.start(*words)
    submitted.wait_until(lambda: site.bucket.num_checkpoints(output) > 0, "a checkpoint")
    for pid in drivers_of(output):
        os.kill(pid, signal.SIGKILL)
    code, shown = submitted.end()
    assert code == 128 + signal.SIGKILL, shown
    assert "the driver was killed and could say nothing" in shown
    code, shown = site.submitter.run(*words)
    assert code == 0, shown
    assert "going on from step" in shown
    site.check(output)


def test_training_that_lost_a_node_waits_for_one_that_joins_and_goes_on(site: Site, undisturbed: str) -> None:
    output = site.bucket.output("node_replaced")
    site.bucket.copy_until(undisturbed, output, "training/mimic")
    submitted = site.submitter.start(*site.bucket.words(output, NO_EVALUATION))
    submitted.wait_until(lambda: site.is_trained_on_both() and site.bucket.num_checkpoints(output) > 0, "a checkpoint")
    site.nodes.kill(site.nodes.hosts_of(RANK)[1])
    submitted.wait_for_line("waiting for nodes; missing: 2 CPU in all, there are 1")
    site.nodes.add(cpus=1)
    code, shown = submitted.end()
    assert code == 0, shown
    assert "a rank was lost" in shown
    site.check(output)


def test_resharding_that_lost_a_node_is_finished_by_the_other(site: Site, undisturbed: str) -> None:
    """The store does not answer while shards are put, so that both nodes are at it when one of them goes."""
    output = site.bucket.output("node_lost_in_reshard")
    site.bucket.copy_until(undisturbed, output, None)
    put = f"PUT /{BUCKET}/runs/node_lost_in_reshard/shards/"
    with FaultProxy(site.bucket.store.port) as slow:
        slow.always("stall", only=put)
        submitted = site.submitter.start(
            *site.bucket.words(output, NO_EVALUATION, f"storage.endpoint_url={slow.endpoint}")
        )

        def shards_put() -> set[str]:
            return {line for line in slow.requests if line.startswith(put) and ".tar" in line}

        submitted.wait_until(lambda: len(shards_put()) >= 2, "two shards on their way")
        hosts = site.nodes.hosts_of(MAP)
        assert len(hosts) == 2
        site.nodes.kill(hosts[0])
        slow.calm()
        code, shown = submitted.end()
    assert code == 0, shown
    site.check(output)


def test_elastic_training_goes_on_with_one_rank_and_grows_back_with_each_sample_scored_once_an_epoch(
    site: Site, undisturbed: str
) -> None:
    """A node is lost, another one joins, and the rank that trained alone is killed: the next attempt has both."""
    output = site.bucket.output("elastic")
    site.bucket.copy_until(undisturbed, output, "training/mimic")
    more = (NO_EVALUATION, "train.epochs=6", "train.min_workers=1", "cluster.wait_for_nodes_seconds=20")
    submitted = site.submitter.start(*site.bucket.words(output, *more))
    submitted.wait_until(lambda: site.is_trained_on_both() and site.bucket.num_checkpoints(output) > 0, "a checkpoint")
    site.nodes.kill(site.nodes.hosts_of(RANK)[1])
    submitted.wait_for_line("1 of 2 ranks, as there is no room for all")
    before = site.bucket.num_checkpoints(output)
    site.nodes.add(cpus=1)
    submitted.wait_until(lambda: site.bucket.num_checkpoints(output) > before, "a checkpoint of one rank")
    for pid in site.nodes.pids_of(RANK):
        os.kill(pid, signal.SIGKILL)
    code, shown = submitted.end()
    assert code == 0, shown
    artifacts = site.bucket.artifacts(output)
    assert artifacts["training/mimic"].manifest.summary["world_size"] == [2, 1, 2]
    with site.bucket.store.signed():
        assert _visits(artifacts["scores/mimic"]).equals(_each_once_an_epoch(artifacts["pool"], epochs=6))
        verdict = verify(output, site.bucket.storage(), Reporter())
    assert verdict.differences == []  # each stage's counts among them
    summary = artifacts["scores/mimic"].manifest.summary
    assert summary["coverage"] == 1.0
    assert summary["rows"] == 6 * summary["usable"]


KEYS = ["uid_hi", "uid_lo", "visit"]


def _visits(scores: Artifact) -> pa.Table:
    """Which sample was scored at which visit, sorted."""
    tables = [scores.read_table(file.path, KEYS) for file in scores.files("bucket-")]
    return pa.concat_tables(tables).sort_by([(key, "ascending") for key in KEYS])


def _each_once_an_epoch(pool: Artifact, *, epochs: int) -> pa.Table:
    """What `_visits` must be."""
    usable = pa.concat_tables([pool.read_table(file.path, KEYS[:2]) for file in pool.files("index/")])
    visits = [usable.append_column("visit", pa.array([visit] * len(usable), pa.uint16())) for visit in range(epochs)]
    return pa.concat_tables(visits).sort_by([(key, "ascending") for key in KEYS])
