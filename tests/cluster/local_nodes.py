"""Nodes that Ray's autoscaler starts as processes of this machine; the autoscaler's process imports this."""

from collections.abc import Mapping
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class LocalNodes(FakeMultiNodeProvider):
    """Ray's own provider for tests, for types that declare their memory, as every real provider's do."""

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: Mapping[str, float], labels: Any
    ) -> None:
        found_out = {name: amount for name, amount in resources.items() if name != "memory"}  # by the node itself
        super()._create_node_with_resources_and_labels(node_config, tags, count, found_out, labels)
