"""From a configuration to the nodes of its graph: which stages there are and what feeds what."""

from pydantic import ValidationError

from pipeline.config import RunConfig
from pipeline.config_base import Config
from pipeline.errors import UserError
from pipeline.graph import Node
from stages.train.config import TrainConfig
from stages.train.reference_config import phase_train_config, placed_reference


class NoConfig(Config):
    """For stages that have nothing to configure."""


def assemble(config: RunConfig) -> list[Node]:
    """All nodes in an order in which they can run."""
    lineage = _lineage(config)
    mimic = Node(
        "training/mimic",
        "train",
        "stages.train.stage:TrainStage",
        config.train,
        {"pool": "pool", "reference": "reference", **_init(config)},
        {"pool_path": config.pool.path, "on_uninformative": config.reference.on_uninformative},
        seeded=True,
    )
    gather = Node(
        "scores/mimic",
        "train",
        "stages.train.gather:GatherStage",
        NoConfig(),
        {"pool": "pool", "training": "training/mimic"},
    )
    selectors = [_selector(config, name) for name in sorted(config.selectors)]
    # What needs the pool alone goes first: a fault in a table or a column is found before hours of training.
    early = [node for node in selectors if set(node.inputs) == {"pool"}]
    late = [node for node in selectors if node not in early]
    scores = {node.name: node.name for node in (gather, *selectors)}
    front = [Node("pool", "pool", "stages.pool.stage:PoolStage", config.pool, seeded=config.pool.sample < 1)]
    curate = _curation(config, scores)
    retrained = _retraining(config)
    judgement = _judgement(config, scores, retrained)
    return [*front, *early, *lineage, mimic, gather, *late, *curate, *retrained, *judgement]


def _init(config: RunConfig) -> dict[str, str]:
    return {"init": "training/base"} if config.reference.base is not None else {}


def _phase(config: RunConfig, phase: Config, key: str) -> TrainConfig:
    """The training of a phase.

    Raises:
        UserError: together with what it inherits from `train` it cannot be.
    """
    try:
        return phase_train_config(config.train, phase)
    except ValidationError as error:
        found = "; ".join(str(fault["msg"]).removeprefix("Value error, ") for fault in error.errors(include_url=False))
        raise UserError(
            f"{key} does not go with the `train` block that it inherits from",
            where=key,
            found=found,
            next_step=f"change {key}, or `train`",
        ) from None


def _lineage(config: RunConfig) -> list[Node]:
    """Trusted samples, base, tuned and reference: where the weights to mimic come from."""
    reference = config.reference
    nodes = []
    place = {"pool_path": config.pool.path}
    if reference.tune is not None:
        nodes.append(
            Node(
                "subset_trusted",
                "reference",
                "stages.train.trusted:TrustedStage",
                NoConfig(),
                {"pool": "pool"},
                {"listed": reference.trusted},
            )
        )
    if reference.base is not None:
        phase = _phase(config, reference.base, "reference.base")
        nodes.append(
            Node(
                "training/base",
                "reference",
                "stages.train.stage:TrainStage",
                phase,
                {"pool": "pool"},
                place,
                seeded=True,
            )
        )
    inputs = {"pool": "pool", **_init(config)}
    if reference.tune is not None:
        nodes.append(
            Node(
                "training/tuned",
                "reference",
                "stages.train.stage:TrainStage",
                _phase(config, reference.tune, "reference.tune"),
                {"pool": "pool", "subset": "subset_trusted", **_init(config)},
                place,
                seeded=True,
            )
        )
        inputs["weights"] = "training/tuned"
    nodes.append(
        Node(
            "reference",
            "reference",
            "stages.train.reference:ReferenceStage",
            placed_reference(reference, config.train),
            inputs,
            {**place, "train": config.train},
            seeded=True,
        )
    )
    return nodes


def _selector(config: RunConfig, name: str) -> Node:
    selector = config.selectors[name]
    sources = {"pool": "pool", "training": "training/mimic", "reference": "reference"}
    kind = selector.kind
    return Node(
        f"scores/{name}",
        "selectors",
        f"stages.selectors.{kind}:{''.join(word.capitalize() for word in kind.split('_'))}Selector",
        selector,
        {role: sources[role] for role in selector.roles()},
        {"name": name, "pool_path": config.pool.path, "metadata": config.pool.metadata},
    )


def _curation(config: RunConfig, scores: dict[str, str]) -> list[Node]:
    """Votes, decisions, subset, shards."""
    nodes = [
        Node("votes", "binarize", "stages.binarize:BinarizeStage", config.binarize, {"pool": "pool", **scores}),
        Node(
            "decisions",
            "aggregate",
            "stages.aggregate:AggregateStage",
            config.aggregate,
            {"votes": "votes", **scores},
            seeded=True,
        ),
        Node(
            "subset",
            "select",
            "stages.select:SelectStage",
            config.select,
            {"pool": "pool", "decisions": "decisions", **scores},
            {"metadata": config.pool.metadata, "selectors": ["mimic", *config.selectors]},
            deliverable=True,
        ),
    ]
    if config.reshard != "off":
        nodes.append(
            Node(
                "shards",
                "reshard",
                "stages.reshard:ReshardStage",
                config.reshard,
                {"pool": "pool", "subset": "subset"},
                {"pool_path": config.pool.path},
                deliverable=True,
            )
        )
    return nodes


def _retraining(config: RunConfig) -> list[Node]:
    """The proof of a filter: the same recipe on the kept subset and on a random one of the same size."""
    if config.evaluate == "off" or config.evaluate.retrain is None:
        return []
    recipe = _phase(config, config.evaluate.retrain, "evaluate.retrain")
    place = {"pool_path": config.pool.path}
    drawn = Node(
        "subset_random",
        "evaluate",
        "stages.evaluate_retrain:RandomSubsetStage",
        NoConfig(),
        {"pool": "pool", "subset": "subset"},
        seeded=True,
    )
    trained = [
        Node(
            f"training/{name}",
            "evaluate",
            "stages.train.stage:TrainStage",
            recipe,
            {"pool": "pool", "subset": subset},
            place,
            seeded=True,
        )
        for name, subset in (("kept", "subset"), ("random", "subset_random"))
    ]
    return [drawn, *trained]


def _judgement(config: RunConfig, scores: dict[str, str], retrained: list[Node]) -> list[Node]:
    """Evaluation and report."""
    trainings = {"training/mimic": "training/mimic"}
    if config.reference.base is not None:
        trainings["training/base"] = "training/base"
    if config.reference.tune is not None:
        trainings["training/tuned"] = "training/tuned"
    trainings |= {node.name: node.name for node in retrained if node.name.startswith("training/")}
    nodes = []
    if config.evaluate != "off":
        nodes.append(
            Node(
                "evaluation",
                "evaluate",
                "stages.evaluate:EvaluateStage",
                config.evaluate,
                {"reference": "reference", **trainings},
                deliverable=True,
            )
        )
    sources = ["pool", "reference", "votes", "decisions", "subset"]
    sources += ["shards"] if config.reshard != "off" else []
    sources += ["evaluation"] if nodes else []
    nodes.append(
        Node(
            "report",
            "report",
            "stages.report.stage:ReportStage",
            config.report,
            {**{name: name for name in sources}, **trainings, **scores},
            {"pool_path": config.pool.path},
            deliverable=True,
        )
    )
    return nodes
