"""Ranks of an embedded Ray find one another through a file and talk over loopback.

torch's own meeting point, a TCP store in the first rank, listens on all interfaces and asks nobody for a password.
All ranks of an embedded Ray are on one machine, so a file does as well.
"""

import os
import socket
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig


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
