"""Run a function in several processes that form a gloo group."""

import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(world_size: int, function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What `function(*args)` returned in each rank, in rank order."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_enter, (world_size, port, function, str(folder), args), nprocs=world_size)
    return [pickle.loads((folder / f"rank-{rank}.pickle").read_bytes()) for rank in range(world_size)]


def _enter(
    rank: int, world_size: int, port: int, function: Callable[..., Any], folder: str, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    result = function(*args)
    (Path(folder) / f"rank-{rank}.pickle").write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
