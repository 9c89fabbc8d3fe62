"""Room for work: what fits, what is missing, and on a real cluster waiting for nodes and keeping to roles."""

import os
import threading
import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cluster.room import fits, missing
from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig, RoleConfig
from pipeline.errors import RunError
from pipeline.progress import Reporter
from tests.crash.nodes import Nodes

AMOUNTS = st.dictionaries(st.sampled_from(["CPU", "GPU"]), st.integers(1, 3), min_size=1)


def _can_be_placed(machines: list[dict[str, int]], bundles: list[dict[str, int]]) -> bool:
    """By trying every assignment."""
    for chosen in product(range(len(machines)), repeat=len(bundles)):
        used: dict[tuple[int, str], int] = {}
        for place, bundle in zip(chosen, bundles, strict=True):
            for resource, amount in bundle.items():
                used[place, resource] = used.get((place, resource), 0) + amount
        if all(machines[place].get(resource, 0) >= amount for (place, resource), amount in used.items()):
            return True
    return False


@given(st.lists(AMOUNTS, max_size=3), st.lists(AMOUNTS, min_size=1, max_size=4))
def test_what_is_said_to_fit_can_be_placed(machines: list[dict[str, int]], bundles: list[dict[str, int]]) -> None:
    if fits(machines, bundles):
        assert _can_be_placed(machines, bundles)


@given(st.lists(AMOUNTS, max_size=3), AMOUNTS, st.integers(1, 4))
def test_equal_bundles_fit_exactly_where_they_can_be_placed(
    machines: list[dict[str, int]], bundle: dict[str, int], number: int
) -> None:
    assert fits(machines, [bundle] * number) == _can_be_placed(machines, [bundle] * number)


def test_missing_resource_is_named_with_what_there_is() -> None:
    machines = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 4.0}]
    assert missing(machines, [{"CPU": 1, "GPU": 1}] * 3) == "missing: 3 GPU in all, there are 1"
    assert missing(machines, [{"CPU": 16}]) == "missing: 16 CPU on one node, the largest has 8"
    assert missing(machines, [{"CPU": 1, "spot": 0.5}]) == "missing: 0.5 spot on one node, the largest has 0"
    assert missing([], [{"CPU": 1}]) == "missing: 1 CPU on one node, the largest has 0"
    assert missing(machines, [{"CPU": 2}]) == "missing: 1 x {CPU: 2} at once, on nodes that are busy"


def test_role_adds_its_resources_and_its_memory_goes_before_a_stages() -> None:
    role = RoleConfig(resources={"big": 1.0}, memory=10)
    assert role.bundle(num_cpus=2, memory=5) == {"CPU": 2, "memory": 10.0, "big": 1.0}
    assert RoleConfig().bundle(num_cpus=1, num_gpus=0.5, memory=5) == {"CPU": 1, "GPU": 0.5, "memory": 5.0}


@pytest.mark.parametrize("name", ["CPU", "GPU", "memory"])
def test_role_may_not_take_what_stages_reserve_themselves(name: str) -> None:
    with pytest.raises(ValueError, match="reserved by the stages"):
        RoleConfig(resources={name: 1.0})


def _engine(cluster: Nodes, **settings: object) -> tuple[Engine, Console]:
    console = Console(record=True, file=open(os.devnull, "w"), width=200)  # noqa: SIM115  # as long as the test
    config = ClusterConfig(address=cluster.address, auth_mode="disabled", **settings)  # type: ignore[arg-type]
    return Engine(config, Reporter(console)), console


def _node_of(item: int) -> str:
    import ray

    time.sleep(0.2)
    return str(ray.get_runtime_context().get_node_id())


@pytest.mark.slow
@pytest.mark.ray
class TestOnACluster:
    def test_work_that_no_node_can_hold_is_given_up_and_the_resource_named(self, cluster: Nodes) -> None:
        engine, console = _engine(cluster, kernels=RoleConfig(resources={"kernels": 1.0}), wait_for_nodes_seconds=1.0)
        with pytest.raises(RunError, match=r"(?s)no room.*pool.*wait_for_nodes.*missing: 1 kernels on one node"):
            engine.map(_node_of, [1, 2], name="pool")
        assert "pool: waiting for nodes; missing: 1 kernels on one node, the largest has 0" in console.export_text()

    def test_work_waits_for_a_node_that_comes_and_runs_there_alone(self, cluster: Nodes) -> None:
        engine, _ = _engine(cluster, kernels=RoleConfig(resources={"late": 0.1}), wait_for_nodes_seconds=120.0)
        found: list[list[str]] = []
        work = threading.Thread(target=lambda: found.append(engine.map(_node_of, list(range(4)), name="pool")))
        work.start()
        time.sleep(2)
        assert not found
        cluster.add(cpus=2, resources={"late": 1.0})  # in the main thread: Ray sets signal handlers
        work.join(200)
        assert set(found[0]) == {cluster.workers[-1].node_id}

    def test_aggregation_is_pinned_to_its_node(self, cluster: Nodes) -> None:
        cluster.add(cpus=1, resources={"big": 1.0})
        engine, _ = _engine(cluster, aggregation=RoleConfig(resources={"big": 1.0}))
        role = engine.config.aggregation
        assert engine.on_one_node(_node_of, 1, name="label model", role=role) == cluster.workers[-1].node_id
