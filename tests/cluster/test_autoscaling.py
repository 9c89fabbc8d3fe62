"""Stages on a cluster that has no node for them yet: each waits for one of its type, which the autoscaler starts."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig, RoleConfig
from pipeline.errors import RunError
from pipeline.progress import Reporter
from stages.pool.demo import make_pool
from tests.cluster.autoscaled import Autoscaled, autoscaled, configuration
from tests.crash.scenes import command, environment, states
from tests.long_runs import only_in

NODE_TYPES = {"cpu_node": {"CPU": 1, "cpu_node": 1}, "gpu_node": {"CPU": 2, "gpu_node": 1}}
ROLES = (
    "cluster.kernels.resources={cpu_node: 0.1}",
    "cluster.trainers.resources={gpu_node: 0.1}",
    "cluster.aggregation.resources={cpu_node: 0.1}",
)


def test_configuration_is_one_that_ray_accepts() -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    read = AutoscalingConfig(configuration(NODE_TYPES))
    assert read.get_node_resources("cpu_node")["cpu_node"] == 1
    assert read.get_node_type_configs()["gpu_node"].max_worker_nodes == 2


@pytest.fixture(scope="class")
def cluster() -> Iterator[Autoscaled]:
    with autoscaled(NODE_TYPES) as made:
        yield made


def _node_of(item: int) -> str:
    import ray

    time.sleep(0.2)
    return str(ray.get_runtime_context().get_node_id())


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
@only_in("make cluster-test")
class TestOnACluster:
    def test_run_waits_at_each_stage_for_a_node_of_the_type_that_it_needs(
        self, cluster: Autoscaled, tmp_path: Path
    ) -> None:
        make_pool(str(tmp_path / "pool"), num_samples=256, seed=0, reporter=Reporter())
        assert set(cluster.node_types().values()) == {""}
        output = tmp_path / "runs"
        words = (
            f"cluster.address={cluster.address}",
            "evaluate=off",
            "reference.base.epochs=1",
            *ROLES,
            "--until",
            "reference",
        )
        told = subprocess.run(
            command(output, words), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600
        )
        assert told.returncode == 0, told.stdout + told.stderr + cluster.log()
        shown = told.stdout + told.stderr
        cpu, gpu = (f"0.1 {name} on one node, the largest has 0" for name in NODE_TYPES)
        assert shown.index(cpu) < shown.index(gpu)
        assert states(output)["reference"] == "done"
        assert set(cluster.node_types().values()) == {"", "cpu_node", "gpu_node"}

    def test_work_runs_on_the_node_that_was_started_for_it_and_on_no_other(self, cluster: Autoscaled) -> None:
        import ray

        if ray.is_initialized():
            ray.shutdown()
        config = ClusterConfig(
            address=cluster.address, auth_mode="disabled", kernels=RoleConfig(resources={"cpu_node": 0.1})
        )
        engine = Engine(config, Reporter(Console(stderr=True)))
        try:
            used = engine.map(_node_of, list(range(4)), name="work")
            types = cluster.node_types()
            assert {types[node] for node in used} == {"cpu_node"}
        finally:
            engine.shutdown()

    def test_type_that_no_autoscaler_can_start_is_named_after_the_time_that_was_given(
        self, cluster: Autoscaled
    ) -> None:
        config = ClusterConfig(
            address=cluster.address,
            auth_mode="disabled",
            kernels=RoleConfig(resources={"tpu_node": 1.0}),
            wait_for_nodes_seconds=5.0,
        )
        engine = Engine(config, Reporter(Console(stderr=True)))
        try:
            with pytest.raises(RunError, match=r"(?s)no room.*missing: 1 tpu_node on one node, the largest has 0"):
                engine.map(_node_of, [1], name="work")
        finally:
            engine.shutdown()
