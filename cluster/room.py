"""Room on a cluster: wait for nodes that have to be started first, and say which resource is missing."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import RunError
from pipeline.progress import Reporter

Bundle = Mapping[str, float]
"""Amounts by resource, as Ray names them, for one process."""
_LOOK_SECONDS = 5.0
_SAY_SECONDS = 60.0


def await_room(bundles: Sequence[Bundle], name: str, reporter: Reporter, *, seconds: float) -> None:
    """Return once the cluster has had room for all bundles at once; an autoscaler is asked for nodes meanwhile.

    Args:
        bundles: one for each process.
        name: of the work, for messages.
        reporter: told while it waits.
        seconds: how long.

    Raises:
        RunError: there was none in time; names the resources that are missing.
    """
    if fits(_nodes(), bundles):
        return
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    begun = said = time.monotonic()
    reporter.say(f"{name}: waiting for nodes; {missing(_nodes(), bundles)}")
    try:
        while not ray.wait([group.ready()], timeout=_LOOK_SECONDS)[0]:
            now = time.monotonic()
            if now - begun > seconds:
                raise RunError(
                    "the cluster has no room for this",
                    where=name,
                    expected=f"{_described(bundles)} within {seconds:g} s (cluster.wait_for_nodes_seconds)",
                    found=missing(_nodes(), bundles),
                    next_step="add nodes, ask for less (train.num_workers, train.threads_per_rank, cluster.trainers, "
                    "cluster.kernels, cluster.aggregation), or wait longer; the same command goes on",
                )
            if now - said > _SAY_SECONDS:
                said = now
                reporter.say(f"{name}: still waiting for nodes; {missing(_nodes(), bundles)}")
    finally:
        remove_placement_group(group)


def fits(nodes: Sequence[Mapping[str, float]], bundles: Sequence[Bundle]) -> bool:
    """Whether nodes of these totals could hold all bundles, were nothing else on them.

    Greedy, largest first: a fit that it overlooks only costs a wait for what is there already.
    """
    left = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda wanted: sorted(wanted.values(), reverse=True), reverse=True):
        for node in left:
            if all(node.get(resource, 0.0) >= amount for resource, amount in bundle.items()):
                for resource, amount in bundle.items():
                    node[resource] = node.get(resource, 0.0) - amount
                break
        else:
            return False
    return True


def missing(nodes: Sequence[Mapping[str, float]], bundles: Sequence[Bundle]) -> str:
    """What is wanted beside what there is, of the resources that are too few; of memory the largest node."""
    wanted: Counter[str] = Counter()
    for bundle in bundles:
        wanted.update(dict(bundle))
    lines = []
    for resource in sorted(wanted):
        largest = max((node.get(resource, 0.0) for node in nodes), default=0.0)
        total = sum(node.get(resource, 0.0) for node in nodes)
        most = max(bundle.get(resource, 0.0) for bundle in bundles)
        if most > largest:
            lines.append(f"{most:g} {resource} on one node, the largest has {largest:g}")
        elif wanted[resource] > total:
            lines.append(f"{wanted[resource]:g} {resource} in all, there are {total:g}")
    return "missing: " + ("; ".join(lines) if lines else f"{_described(bundles)} at once, on nodes that are busy")


def _described(bundles: Sequence[Bundle]) -> str:
    counts = Counter(tuple(sorted(bundle.items())) for bundle in bundles)
    return ", ".join(
        f"{number} x {{{', '.join(f'{resource}: {amount:g}' for resource, amount in bundle)}}}"
        for bundle, number in counts.items()
    )


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
