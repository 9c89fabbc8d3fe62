"""Runs on hosts that share a network and a bucket alone: working directories, names, and a network that fails."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.storage import join
from tests.cluster.bucket import Bucket
from tests.cluster.hosts import STORE, Hosts, hosts
from tests.cluster.lan import Host
from tests.cluster.submitting import Submitted, Submitter
from tests.crash.nodes import RANK
from tests.long_runs import long_runs

pytestmark = long_runs("make cluster-test", seconds=2400)
RAYS_OWN: dict[str, int] = {}
QUICK = {"health_check_period_ms": 1000, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 5}
CUT_SECONDS = 30.0


@contextmanager
def _cluster(bucket: Bucket, folder: Path, *, workers: int, detection: dict[str, int]) -> Iterator[Hosts]:
    scratch = folder / "hosts"
    scratch.mkdir()
    port, environment = bucket.store.port, bucket.environment(STORE)
    with hosts(scratch, workers=workers, store_port=port, environment=environment, detection=detection) as made:
        yield made


def _submitter(bucket: Bucket, folder: Path, cluster: Hosts) -> Submitter:
    """Its working directory holds the configuration, which the hosts have from nowhere else."""
    work = folder / "work"
    work.mkdir()
    with bucket.store.signed():
        text = bucket.storage().read_bytes(bucket.words("")[0]).decode()
    (work / "mine.yaml").write_text(text)
    return Submitter(work, cluster.dashboard, bucket.environment())


def _words(bucket: Bucket, output: str) -> tuple[str, ...]:
    return ("mine.yaml", *bucket.words(output, "evaluate=off")[1:])


def _ranks_at_work(submitted: Submitted, cluster: Hosts, bucket: Bucket, output: str) -> list[Host]:
    """Hosts of the ranks, once there are two and a checkpoint."""
    found: list[Host] = []

    def at_work() -> bool:
        found[:] = cluster.hosts_of(RANK)
        return len(found) == 2 and bucket.num_checkpoints(output) > 0

    submitted.wait_until(at_work, "two ranks and a checkpoint")
    return found


@pytest.fixture(scope="module")
def finished(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of a run on hosts that nobody disturbed."""
    folder, output = tmp_path_factory.mktemp("finished"), bucket.output("on_hosts")
    with _cluster(bucket, folder, workers=2, detection=RAYS_OWN) as cluster:
        submitter = _submitter(bucket, folder, cluster)
        submitted = submitter.start(*_words(bucket, output))
        submitted.wait_until(lambda: len(cluster.hosts_of(RANK)) == 2, "ranks on both workers")
        code, shown = submitted.end()
        assert code == 0, shown
        for host in cluster.workers:  # what a node wrote for itself alone would be missed by the others
            assert not list(host.tmp.rglob("*.tar"))
    return output


def test_run_on_hosts_that_share_nothing_but_a_bucket_ends_in_the_digests_of_one_on_disk(
    bucket: Bucket, finished: str
) -> None:
    bucket.check(finished, without=("evaluation",))
    assert bucket.listed(join(finished, "shards"), ".tar")


@pytest.mark.parametrize("detection", [RAYS_OWN, QUICK], ids=["heals before it is noticed", "given up and replaced"])
def test_training_one_of_whose_hosts_is_cut_off_for_30_seconds_ends_in_the_same_bytes(
    detection: dict[str, int], bucket: Bucket, finished: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The host lives on without its network: its rank writes late, if ever, beside the one that took its place."""
    output = bucket.output(f"cut_{len(detection)}")
    bucket.copy_until(finished, output, "training/mimic")
    with _cluster(bucket, tmp_path, workers=3, detection=detection) as cluster:
        submitter = _submitter(bucket, tmp_path, cluster)
        submitted = submitter.start(*_words(bucket, output))
        victim = _ranks_at_work(submitted, cluster, bucket, output)[-1]
        victim.unplug()
        time.sleep(CUT_SECONDS)
        victim.plug()
        code, shown = submitted.end()
        if code == 1:  # not healed: the same command goes on
            code, again = submitter.run(*_words(bucket, output))
            shown += again
        assert code == 0, shown
        if detection == QUICK:
            assert "a rank was lost" in shown
            assert cluster.has_left(victim)
        else:
            assert not cluster.has_left(victim)
    bucket.check(output, without=("evaluation",))
