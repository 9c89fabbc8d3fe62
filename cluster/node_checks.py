"""Before any long work on a cluster: each node must run what the driver runs, and reach what a run reads and writes.

A difference in versions gives other bytes or errors hours later; a folder that is not shared gives a run whose parts
lie on several machines. Both are found here in seconds, and all at once.
"""

import platform
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import GradsieveError, UserError
from pipeline.run_record import versions
from pipeline.storage import Storage, join

_MUST_AGREE = ("python", "gradsieve", "ray")
"""What else differs gives a warning: bytes may differ, but the run works."""
_MOST_SHOWN = 12


@dataclass(frozen=True)
class Wanted:
    """What a node must be able to do; picklable."""

    storage: Storage
    readable: tuple[str, ...]
    """One object of each input."""
    writable: tuple[str, ...]
    """Folders; the driver's probe lies in each."""
    token: str

    def probe(self, folder: str, owner: str) -> str:
        """Where an owner's probe lies; hidden, and gone when the check is over."""
        return join(folder, f".probe-{self.token}-{owner}")


@dataclass(frozen=True)
class Answer:
    """What a node says of itself."""

    node: str
    versions: dict[str, str]
    faults: tuple[str, ...]


def check_nodes(
    storage: Storage, readable: Sequence[str], writable: Sequence[str], *, timeout: float = 120.0
) -> list[str]:
    """Ask every node that is there; Ray is connected already.

    Args:
        storage: how stores are reached.
        readable: one object of each input.
        writable: folders of the run.
        timeout: seconds for all of them together.

    Returns:
        Warnings: packages whose versions differ.

    Raises:
        UserError: with each fault by node.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    wanted = Wanted(storage, tuple(readable), tuple(writable), uuid.uuid4().hex[:12])
    alive: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    for folder in wanted.writable:
        storage.put(wanted.probe(folder, "driver"), wanted.token.encode())
    try:
        ask: Any = ray.remote(num_cpus=0, max_retries=0)(answer)
        asked = {
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                wanted, _name(node), node["NodeID"]
            ): node
            for node in alive
        }
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=timeout)
        faults = [f"{_name(asked[task])}: no answer within {timeout:g} s" for task in late]
        answers = []
        for task in ready:
            try:
                answers.append(ray.get(task))
            except RayError as error:
                faults.append(f"{_name(asked[task])}: {_last_line(error)}")
        faults += [f"{found.node}: {fault}" for found in answers for fault in found.faults]
        faults += _unread(wanted, [node["NodeID"] for task, node in asked.items() if task in ready], faults)
    finally:
        for folder in wanted.writable:
            storage.delete(wanted.probe(folder, "driver"))
            for node in alive:
                storage.delete(wanted.probe(folder, node["NodeID"]))
    here = versions()
    faults += [line for found in answers for line in differing(here, found, _MUST_AGREE)]
    if faults:
        raise _unfit(faults)
    others = tuple(name for name in here if name not in _MUST_AGREE)
    return [line for found in answers for line in differing(here, found, others)]


def answer(wanted: Wanted, node: str, node_id: str) -> Answer:
    """Runs on a node: what is installed there, and which of the run's places it cannot use."""
    faults = []
    for uri in wanted.readable:
        try:
            wanted.storage.read_range(uri, 0, min(1, wanted.storage.stat(uri).bytes))
        except (GradsieveError, OSError) as error:
            faults.append(f"cannot read {uri}: {_last_line(error)}")
    for folder in wanted.writable:
        try:
            found = wanted.storage.read_bytes(wanted.probe(folder, "driver"))
            if found != wanted.token.encode():
                faults.append(f"reads other bytes in {folder} than the driver wrote there")
            wanted.storage.put(wanted.probe(folder, node_id), wanted.token.encode())
        except FileNotFoundError:
            faults.append(f"does not see what the driver wrote into {folder}: it is not shared between nodes")
        except (GradsieveError, OSError) as error:
            faults.append(f"cannot write {folder}: {_last_line(error)}")
    return Answer(node, versions(), tuple(faults))


def differing(here: dict[str, str], found: Answer, names: Sequence[str]) -> list[str]:
    """Packages that are not the driver's, a line each; of Python the minor version counts."""
    return [
        f"{found.node}: {name} {found.versions[name]}, the driver has {here[name]}"
        for name in names
        if _compared(name, here[name]) != _compared(name, found.versions[name])
    ]


def _compared(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "python" else version


def _unread(wanted: Wanted, node_ids: Sequence[str], known: Sequence[str]) -> list[str]:
    """Probes of nodes that the driver does not see, where no node complained itself."""
    if known:
        return []
    return [
        f"node {node_id[:8]}: what it wrote into {folder} is not seen by the driver: it is not shared between nodes"
        for node_id in node_ids
        for folder in wanted.writable
        if not wanted.storage.exists(wanted.probe(folder, node_id))
    ]


def _unfit(faults: Sequence[str]) -> UserError:
    more = f"\n  and {len(faults) - _MOST_SHOWN} more" if len(faults) > _MOST_SHOWN else ""
    listed = "\n".join(f"  {fault}" for fault in faults[:_MOST_SHOWN])
    return UserError(
        f"the cluster cannot run this: {len(faults)} fault(s)\n{listed}{more}",
        expected=f"on every node Python {platform.python_version()} with the driver's packages (constraints.txt), and "
        "storage that all nodes reach",
        next_step="use one image for all nodes, give them credentials, and let output and pool lie on s3:// or a "
        "shared file system",
    )


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeID'][:8]} ({node.get('NodeManagerHostname') or node['NodeManagerAddress']})"


def _last_line(error: Exception) -> str:
    """What is wrong, in one line; of Ray's errors the last line is the cause."""
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, GradsieveError):
        return "; ".join(lines)
    return lines[-1] if lines else type(error).__name__
