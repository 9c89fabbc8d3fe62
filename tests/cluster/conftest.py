"""A cluster of several nodes that this process is connected to."""

from collections.abc import Iterator

import pytest

from tests.crash.nodes import Nodes, nodes


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
