"""Nodes of a real cluster are drained or lost under a training or a data stage: same bytes in the end."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.run_record import open_artifacts
from pipeline.storage import Storage
from tests.crash.nodes import MAP, RANK, Nodes, nodes
from tests.crash.scenes import Ended, content, copy_until, finish, kill_session, num_scored, start, wait_for, wait_until
from tests.crash.test_ray import CHECKPOINTS, ON_RAY, TWO_RANKS, two_ranks
from tests.long_runs import long_runs

__all__ = ["two_ranks"]

pytestmark = long_runs("make chaos", seconds=1800)


@pytest.fixture
def three() -> Iterator[Nodes]:
    with nodes(workers=3, cpus=1) as made:
        yield made


def trained(workplace: Path, two_ranks: Path, cluster: Nodes, *, harm: str) -> tuple[Ended, Path]:
    """A training by two ranks on two of three nodes, one of which is drained, or killed behind a checkpoint."""
    output = workplace / "runs" / f"node_{harm}"
    copy_until(two_ranks, output, "training/mimic")
    soon = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
    process = start(workplace, output, (*TWO_RANKS, f"cluster.address={cluster.address}"), soon)
    try:
        assert wait_until(lambda: len(cluster.hosts_of(RANK)) == 2, process, "ranks on two nodes")
        if harm == "drained":
            cluster.drain(cluster.hosts_of(RANK)[1], seconds=120)
        else:
            assert wait_for(output, f"{CHECKPOINTS}/*/manifest-*", process)
            cluster.kill(cluster.hosts_of(RANK)[1])
        return finish(process, workplace, output), output
    finally:
        kill_session(process.pid)


def test_training_whose_node_is_drained_takes_a_checkpoint_and_goes_on_elsewhere(
    workplace: Path, two_ranks: Path, three: Nodes
) -> None:
    """The drain is announced while ranks start, long before the first checkpoint that was planned."""
    ended, output = trained(workplace, two_ranks, three, harm="drained")
    assert ended.code == 0, ended.shown
    told = re.search(r"a node is about to leave; starting again .* from step (\d+)", ended.shown)
    assert told is not None, ended.shown
    assert int(told[1]) > 0
    assert list(output.glob(f"{CHECKPOINTS}/step-{int(told[1]):09d}/manifest-*"))
    assert content(output, "training/mimic") == content(two_ranks, "training/mimic")
    assert content(output, "scores/mimic") == content(two_ranks, "scores/mimic")


def test_training_whose_node_is_lost_goes_on_elsewhere(workplace: Path, two_ranks: Path, three: Nodes) -> None:
    ended, output = trained(workplace, two_ranks, three, harm="killed")
    assert ended.code == 0, ended.shown
    assert "a rank was lost" in ended.shown
    assert content(output, "training/mimic") == content(two_ranks, "training/mimic")


def test_data_stage_whose_node_is_lost_is_finished_by_the_other(workplace: Path, wanted: dict[str, object]) -> None:
    output = workplace / "runs" / "pool_node_killed"
    with nodes(workers=2, cpus=1) as cluster:
        process = start(workplace, output, (*ON_RAY, f"cluster.address={cluster.address}", "--until", "pool"))
        try:
            assert wait_for(output, "store/entries/pool/shards/*/manifest.json", process)
            hosts: list[int] = []
            assert wait_until(lambda: bool(hosts.extend(cluster.hosts_of(MAP)) or hosts), process, "a task at work")
            cluster.kill(hosts[0])
            ended = finish(process, workplace, output)
        finally:
            kill_session(process.pid)
    assert ended.code == 0, ended.shown
    assert content(output, "pool") == wanted["pool content"]


def test_training_whose_node_is_lost_for_good_goes_on_with_fewer_ranks(workplace: Path, two_ranks: Path) -> None:
    """Floats differ in their last bits: what is held is that each sample is scored once a visit, and accounted for."""
    output = workplace / "runs" / "elastic"
    copy_until(two_ranks, output, "training/mimic")
    with nodes(workers=2, cpus=1) as cluster:
        settings = (f"cluster.address={cluster.address}", "train.min_workers=1", "cluster.wait_for_nodes_seconds=5")
        process = start(workplace, output, (*TWO_RANKS, *settings))
        try:
            assert wait_until(lambda: len(cluster.hosts_of(RANK)) == 2, process, "ranks on two nodes")
            assert wait_for(output, f"{CHECKPOINTS}/*/manifest-*", process)
            cluster.kill(cluster.hosts_of(RANK)[1])
            ended = finish(process, workplace, output)
        finally:
            kill_session(process.pid)
    assert ended.code == 0, ended.shown
    assert "1 of 2 ranks, as there is no room for all" in ended.shown
    summary = open_artifacts(str(output), Storage())["training/mimic"].manifest.summary
    assert summary["world_size"] == [2, 1]
    assert num_scored(output)["scores/mimic"] == num_scored(two_ranks)["scores/mimic"]
    mine, theirs = (visits(path) for path in (output, two_ranks))
    assert mine.equals(theirs)


def visits(output: Path) -> pa.Table:
    """Which sample was scored at which visit, sorted."""
    artifact = open_artifacts(str(output), Storage())["scores/mimic"]
    columns = ["uid_hi", "uid_lo", "visit"]
    tables = [artifact.read_table(file.path, columns) for file in artifact.files("bucket-")]
    return pa.concat_tables(tables).sort_by([(column, "ascending") for column in columns])
