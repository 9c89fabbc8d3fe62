"""A cluster of several nodes that this process is connected to, and a bucket for runs on such clusters."""

from collections.abc import Iterator

import pytest

from tests.cluster.bucket import Bucket, filled_bucket
from tests.crash.nodes import Nodes, nodes
from tests.servers.fixtures import Store, rgw_store

__all__ = ["rgw_store"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head without CPUs and two workers with one each; a module's own, as tests add nodes and stop them."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with nodes(workers=2, cpus=1) as made:
            ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
            yield made
            ray.shutdown()


@pytest.fixture(scope="session")
def bucket(rgw_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """With a pool, a configuration, and what a run on disk made of them; minutes."""
    return filled_bucket(rgw_store, tmp_path_factory.mktemp("bucket"))
