"""Where ranks meet and by which addresses they talk.

On an embedded Ray through a file and over loopback: torch's own meeting point, a TCP store in the first rank, listens
on all interfaces and asks nobody for a password, and as all ranks are on one machine a file does as well.

On a cluster at torch's own meeting point, and by the addresses at which Ray knows the nodes: gloo, left alone, takes
the one that its machine's own name has, which on many is one of loopback (Debian writes 127.0.1.1).
"""

import fcntl
import os
import socket
import struct
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig

_ADDRESS_OF_INTERFACE = 0x8915
"""Linux's SIOCGIFADDR."""


@dataclass
class FileRendezvous(TorchConfig):
    """Ray Train's set-up of torch, with the meeting point a file in `folder` (on a disk that all ranks share)."""

    folder: str = ""

    @property
    def backend_cls(self) -> Any:
        """See `TorchConfig`."""
        return _FileBackend


class _FileBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: FileRendezvous) -> None:
        meeting = Path(backend_config.folder, f"ranks-{uuid.uuid4().hex}")  # a new file for each start, as torch wants
        num_ranks = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _join,
                    backend=backend_config.backend,
                    meeting=str(meeting),
                    world_rank=rank,  # the method that passes it on has a `rank` of its own
                    world_size=num_ranks,
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(num_ranks)
            ]
        )


class NodeAddresses(TorchConfig):
    """Ray Train's set-up of torch on a cluster, each rank at its node's address."""

    @property
    def backend_cls(self) -> Any:
        """See `TorchConfig`."""
        return _NodeBackend


class _NodeBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_talk_at_node_address)
        super().on_start(worker_group, backend_config)


def _talk_at_node_address() -> None:
    """In each rank, unless whoever started the node knows better."""
    tell: Any = ray.util.get_node_ip_address  # without types
    name = interface_at(str(tell()))
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_at(address: str) -> str | None:
    """The network interface that has an IPv4 address; None if none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(asking, _ADDRESS_OF_INTERFACE, request)
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def _join(*, backend: str, meeting: str, world_rank: int, world_size: int, timeout_s: int) -> None:
    """In each rank; one that is alone needs nobody."""
    if world_size == 1:
        return
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, _loopback_interface())
    dist.init_process_group(
        backend=backend,
        init_method=Path(meeting).as_uri(),
        rank=world_rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
    )


def _loopback_interface() -> str:
    """`lo` on Linux, `lo0` on macOS."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
