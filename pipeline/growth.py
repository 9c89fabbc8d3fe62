"""`grow_from`: a run that takes the training of an earlier one, and scores what was added to the pool by it.

Nothing of the earlier run is changed or copied: artifacts are taken by fingerprint from the store that both share. It
fits if each artifact that is taken would be made just so by the present configuration, from the inputs that it was
made from then. All that lies behind the scores is computed again over the whole pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.artifact import Manifest
from pipeline.errors import UserError
from pipeline.gc import runs_of
from pipeline.graph import Adopted, Graph, Node
from pipeline.run_record import read_record, resolve
from pipeline.storage import Storage, absolute
from stages.train.config import TrainConfig

LATEST = "latest"
TAKEN = ("reference", "train")
"""Labels of the nodes that are taken from an earlier run, or made otherwise than without it."""
TRAINED = "training/mimic"
_ADDED, _PASS, _EARLIER = "subset_added", "training/added", "earlier"
_GROWN = {"scores/mimic": "stages.train.grow:GrownMimicStage"}
_GROWN_OTHERS = "stages.train.grow:GrownLossStage"
_BLOCKS = ("seed", "train", "reference")


@dataclass(frozen=True)
class Earlier:
    """A finished run, from its record."""

    run: str
    config: Mapping[str, Any]
    manifests: Mapping[str, Manifest]
    """By the name of its node there."""
    roots: Mapping[str, str]

    def manifest(self, name: str) -> Manifest:
        """Of an artifact that must be there.

        Raises:
            UserError: the earlier run has none.
        """
        if name not in self.manifests:
            raise UserError(
                f"the earlier run has no {name}",
                where=self.run,
                expected=f"a finished run with {name}",
                found=", ".join(sorted(self.manifests)),
                next_step=_NEXT,
            )
        return self.manifests[name]


_NEXT = "name another run in `grow_from`, or train anew: `grow_from=null`"


def find_earlier(wish: str, output: str, series: str | None, storage: Storage) -> Earlier | None:
    """The run that `grow_from` names; None where the series has no finished run with a training yet.

    Args:
        wish: as configured.
        output: of the run that grows.
        series: folder of the series, if it is one of a series.
        storage: reaches them.

    Raises:
        UserError: `latest` of no series, or no finished run there.
    """
    if wish != LATEST:
        if absolute(wish) == output:
            raise UserError("a run cannot grow from itself", where="grow_from", found=wish, next_step=_NEXT)
        record = read_record(wish, storage)
        if record["state"] != "done":
            raise UserError(
                "the earlier run is not finished", where=wish, found=record["state"], next_step="finish it first"
            )
        return _opened(absolute(wish), record, storage)
    if series is None:
        raise UserError(
            "`latest` is the last run of a series, and this run is in none",
            where="grow_from",
            expected="--dated, or the output of an earlier run",
            next_step="gradsieve run CONFIG --dated",
        )
    finished = [run for run in runs_of(series, storage.list(series), storage) if run.state == "done"]
    for run in sorted(finished, key=lambda run: (run.started, run.output), reverse=True):
        earlier = _opened(run.output, read_record(run.output, storage), storage)
        if TRAINED in earlier.manifests and "scores/mimic" in earlier.manifests:  # others ended `--until` before
            return earlier
    return None


def _opened(run: str, record: Mapping[str, Any], storage: Storage) -> Earlier:
    manifests, roots = {}, {}
    for name, entry in record["stages"].items():
        if "manifest" in entry and not name.startswith(_EARLIER + "/"):
            uri = resolve(run, entry["manifest"])
            root = resolve(run, entry["root"])
            if uri.startswith(root + "/"):  # deliverables are replaced in place: nobody takes those
                manifests[name], roots[name] = Manifest.from_json(storage.read_bytes(uri), uri), root
    return Earlier(run, record["config"], manifests, roots)


def grown_nodes(plain: Graph, earlier: Earlier, config: Mapping[str, Any]) -> list[Node]:
    """The nodes of a run that takes the training of an earlier one.

    Args:
        plain: the graph of a run that makes all by itself.
        earlier: what to take from.
        config: of this run, to tell what differs.

    Raises:
        UserError: it does not fit.
    """
    lineage = [node for node in plain.nodes if node.label == "reference" or node.name == TRAINED]
    scored = [node for node in plain.nodes if node.inputs.get("training") == TRAINED]
    taken = {node.name: _adopted(plain, node, earlier, node.name) for node in (*lineage, *scored)}
    _check_fits(plain, lineage, earlier, config)
    (pool,) = (node for node in plain.nodes if node.name == "pool")
    if plain.fingerprint(pool, {}, plain.external(pool)) == earlier.manifest("pool").fingerprint:
        return [taken.get(node.name, node) for node in plain.nodes]
    (mimic,) = (node for node in lineage if node.name == TRAINED)
    train = mimic.config
    assert isinstance(train, TrainConfig)
    pass_config = train.as_score_pass()
    more = [
        _adopted(plain, pool, earlier, f"{_EARLIER}/pool"),
        *(_adopted(plain, node, earlier, f"{_EARLIER}/{node.name}") for node in scored),
        Node(
            _ADDED,
            "train",
            "stages.train.added:AddedStage",
            pass_config,
            {"pool": "pool", "earlier": f"{_EARLIER}/pool"},
            seeded=True,
        ),
        Node(
            _PASS,
            "train",
            "stages.train.added:ScorePassStage",
            pass_config,
            {"pool": "pool", "reference": "reference", "init": TRAINED, "subset": _ADDED},
            mimic.arguments,
            seeded=True,
        ),
    ]
    nodes: list[Node] = []
    for node in plain.nodes:
        if node in scored:
            nodes += more
            more = []
            nodes.append(_grown(node, train))
        else:
            nodes.append(taken.get(node.name, node))
    return nodes


def _adopted(plain: Graph, node: Node, earlier: Earlier, name: str) -> Node:
    manifest = earlier.manifest(node.name)
    adopted = Adopted(earlier.run, manifest.artifact, manifest.fingerprint)
    taken = replace(node, name=name, label="train" if name != node.name else node.label, inputs={}, adopted=adopted)
    root = plain.place.root(taken, manifest.fingerprint)
    if root != earlier.roots[node.name]:
        raise UserError(
            "the earlier run has another store",
            where="grow_from",
            expected=root,
            found=earlier.roots[node.name],
            next_step="name its store in `store`; " + _NEXT,
        )
    return taken


def _grown(node: Node, train: TrainConfig) -> Node:
    factory = _GROWN.get(node.name, _GROWN_OTHERS)
    inputs = {
        "pool": "pool",
        "earlier": f"{_EARLIER}/{node.name}",
        "added": _ADDED,
        "training": _PASS,
        "trained": TRAINED,
    }
    selector = node.name.split("/", 1)[1]
    return Node(node.name, node.label, factory, train, inputs, {"selector": selector})


def _check_fits(plain: Graph, lineage: Sequence[Node], earlier: Earlier, config: Mapping[str, Any]) -> None:
    """Each artifact that is taken is the one that the present configuration would make of the same inputs."""
    for node in lineage:
        manifest = earlier.manifest(node.name)
        if plain.fingerprint_over(node, manifest.inputs, plain.external(node)) != manifest.fingerprint:
            raise UserError(
                f"the earlier run's {node.name} is not what this configuration makes",
                where=f"grow_from: {earlier.run}",
                expected="the same seed, model, training and reference, and the same files that these read",
                found=_unlike(plain, earlier, node, config),
                next_step=_NEXT,
            )


def _unlike(plain: Graph, earlier: Earlier, node: Node, config: Mapping[str, Any]) -> str:
    """What differs, as far as the configurations tell."""
    keys = [key for block in _BLOCKS for key in _differing(earlier.config.get(block), config.get(block), block)]
    if keys:
        return "other " + ", ".join(keys)
    return f"another version of the stage, or another file that it reads ({', '.join(plain.external(node)) or 'none'})"


def _differing(one: object, other: object, key: str) -> list[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = sorted({*one, *other})
        return [found for name in names for found in _differing(one.get(name), other.get(name), f"{key}.{name}")]
    return [] if one == other else [key]
