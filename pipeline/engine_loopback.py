"""An embedded Ray that no other machine can reach.

Left alone, a local Ray takes the address of the machine's network and listens on all of its interfaces, without
authentication: whoever reaches a port may run code. A Ray whose node has a loopback address listens there alone. Ray
gives its node that address where clusters are switched off, which it reads when it is imported (`get_node_ip_address`
in Ray's services.py).
"""

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable, named for what it was made for; `1`, set by whoever starts the run, opens Ray to the network."""

_VITAL = ("raylet", "gcs_server")


@contextmanager
def loopback_alone() -> Iterator[None]:
    """Let a Ray that starts inside take a loopback address, unless the environment says otherwise.

    Variable and constant are put back: a cluster that this process or a child of it starts later is none of ours.
    """
    if CLUSTERS in os.environ:
        yield
        return
    os.environ[CLUSTERS] = "0"
    from ray._private import ray_constants  # a process that imported ray earlier has the constant already

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[CLUSTERS]


def exposure() -> str | None:
    """The address at which the Ray of this process can be reached from elsewhere; None where it cannot."""
    import ray.util

    tell: Any = ray.util.get_node_ip_address  # without types
    address = str(tell())
    return None if ipaddress.ip_address(address).is_loopback else address


def died() -> bool:
    """Whether the Ray that this process embeds has lost a process without which it does nothing.

    Ray itself notices after half a minute, and then ends this process without a word.
    """
    from ray._private import worker

    node: Any = worker._global_node
    return node is not None and any(name in _VITAL for name, _ in node.dead_processes())
