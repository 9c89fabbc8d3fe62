"""The graph of every shipped configuration, and of each option that adds or takes away a node."""

import pytest

from pipeline.config_checks import check_voters
from pipeline.errors import UserError
from pipeline.graph import Graph, Place, upto
from pipeline.nodes import assemble
from pipeline.progress import Reporter
from pipeline.storage import Storage
from tests.pipeline.shipped import SHIPPED, TINY, config

TEXTS = {**SHIPPED, "tiny.yaml": TINY}
EXTERNAL = ("reference={source: ViT-B-32.safetensors}",)
CURATION = {"votes", "decisions", "subset", "report"}


def _nodes(*overrides, text=TINY):
    return {node.name: node for node in assemble(config(*overrides, text=text))}


def _graph(nodes, tmp_path):
    return Graph(list(nodes), Place(str(tmp_path), str(tmp_path / "store"), Storage(), Reporter()), 0)


def test_shipped_configs_are_all_here():
    assert {"demo.yaml", "small.yaml", "medium.yaml", "large.yaml", "xlarge.yaml", "tiny.yaml"} <= set(TEXTS)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_graph_of_shipped_config_builds_every_stage_and_neighbours_fit(name, tmp_path):
    nodes = assemble(config(text=TEXTS[name]))
    graph = _graph(nodes, tmp_path)  # constructs every stage, checks every schema
    assert set(graph.stages) == {node.name for node in nodes}
    check_voters(config(text=TEXTS[name]))


@pytest.mark.parametrize("overrides", [(), EXTERNAL, ("evaluate.retrain={epochs: 1}",)])
def test_roles_of_every_node_are_those_that_its_stage_takes(overrides, tmp_path):
    nodes = _nodes(*overrides)
    stages = _graph(nodes.values(), tmp_path).stages
    for node in nodes.values():
        takes = stages[node.name].takes
        for role in node.inputs:
            assert role in takes or role.partition("/")[0] in takes, (node.name, role)


@pytest.mark.parametrize("overrides", [(), EXTERNAL, ("evaluate.retrain={epochs: 1}",), ("reshard=off",)])
def test_nodes_come_after_all_that_feeds_them_and_names_are_unique(overrides):
    seen = set()
    for node in assemble(config(*overrides)):
        assert set(node.inputs.values()) <= seen
        assert node.name not in seen
        seen.add(node.name)


def test_graph_of_the_whole_lineage_has_each_artifact_of_the_contract():
    lineage = {"subset_trusted", "training/base", "training/tuned", "reference", "training/mimic"}
    scores = {"scores/mimic", "scores/loss", "scores/clip_score", "scores/reference_clip_score"}
    assert set(_nodes()) == {"pool", *lineage, *scores, *CURATION, "shards", "evaluation"}


def test_student_starts_from_the_base_where_there_is_one():
    nodes = _nodes()
    tuned = {"pool": "pool", "subset": "subset_trusted", "init": "training/base"}
    assert nodes["training/tuned"].inputs == tuned
    assert nodes["training/mimic"].inputs == {"pool": "pool", "reference": "reference", "init": "training/base"}
    assert nodes["reference"].inputs["weights"] == "training/tuned"
    assert nodes["subset_trusted"].arguments == {"listed": "pool/trusted.npy"}
    assert "subset" not in nodes["training/base"].inputs


def test_what_needs_the_pool_alone_runs_before_any_training():
    """A column with NaN, a table or trusted samples of another pool: found before hours of training."""
    names = list(_nodes("selectors.other={kind: table, path: scores.parquet}"))
    first = names.index("training/base")
    assert set(names[:first]) == {"pool", "subset_trusted", "scores/clip_score", "scores/other"}
    assert names.index("scores/loss") > names.index("training/mimic")


def test_without_base_nothing_starts_from_it():
    nodes = _nodes("reference={source: train, tune: {epochs: 1}, trusted: t.npy}")
    assert "training/base" not in nodes
    assert all("init" not in node.inputs for node in nodes.values())
    assert "training/base" not in nodes["evaluation"].inputs
    assert "training/base" not in nodes["report"].inputs


def test_external_reference_leaves_training_of_one_out():
    nodes = _nodes(*EXTERNAL)
    assert [name for name in nodes if name.startswith("training/")] == ["training/mimic"]
    assert nodes["reference"].inputs == {"pool": "pool"}
    assert nodes["training/mimic"].inputs["reference"] == "reference"


@pytest.mark.parametrize(("option", "gone"), [("reshard", "shards"), ("evaluate", "evaluation")])
def test_what_is_off_is_no_node_and_the_report_does_not_ask_for_it(option, gone):
    whole, nodes = _nodes(), _nodes(f"{option}=off")
    assert set(whole) - set(nodes) == {gone}
    assert gone in whole["report"].inputs.values()
    assert gone not in nodes["report"].inputs.values()


def test_retraining_compares_kept_with_random_by_one_recipe():
    nodes = _nodes("evaluate.retrain={epochs: 3, learning_rate: 1e-3}")
    kept, random = nodes["training/kept"], nodes["training/random"]
    assert (kept.inputs["subset"], random.inputs["subset"]) == ("subset", "subset_random")
    assert kept.config == random.config
    assert (kept.config.epochs, kept.config.learning_rate, kept.config.method) == (3, 1e-3, "uniform")
    assert kept.config.batch_size == nodes["training/mimic"].config.batch_size
    for judge in ("evaluation", "report"):
        assert {"training/kept", "training/random"} <= set(nodes[judge].inputs.values())
    assert "subset_random" not in nodes["report"].inputs.values()


def test_retrain_off_adds_no_node():
    assert set(_nodes("evaluate.retrain=off")) == set(_nodes())


def test_selectors_read_what_their_kind_declares():
    nodes = _nodes()
    assert nodes["scores/loss"].inputs == {"pool": "pool", "training": "training/mimic"}
    assert nodes["scores/clip_score"].inputs == {"pool": "pool"}
    assert nodes["scores/reference_clip_score"].inputs == {"pool": "pool", "reference": "reference"}


@pytest.mark.parametrize("name", ["votes", "decisions", "subset", "report"])
def test_every_score_table_reaches_every_stage_that_weighs_scores(name):
    nodes = _nodes("selectors.other={kind: table, path: scores.parquet}")
    scores = {node for node in nodes if node.startswith("scores/")}
    assert "scores/other" in scores
    assert {source for source in nodes[name].inputs.values() if source.startswith("scores/")} == scores


def test_deliverables_are_the_four_that_people_open():
    nodes = _nodes("evaluate.retrain={epochs: 1}")
    assert {name for name, node in nodes.items() if node.deliverable} == {"subset", "shards", "evaluation", "report"}


def test_seed_is_part_of_what_draws_at_random_only():
    nodes = _nodes("evaluate.retrain={epochs: 1}")
    drawing = {name for name in nodes if name.startswith("training/")} | {"reference", "decisions", "subset_random"}
    assert {name for name, node in nodes.items() if node.seeded} == drawing
    assert _nodes("pool.sample=0.5")["pool"].seeded


def test_truth_of_the_pool_is_an_input_of_the_report_alone(tmp_path):
    stages = _graph(_nodes().values(), tmp_path).stages
    reading = {name for name, stage in stages.items() for one in stage.external().values() if "truth" in one.uri}
    assert reading == {"report"}


def test_changed_training_changes_what_the_reference_check_is_made_of():
    def identity(*overrides):
        return _nodes(*overrides)["reference"].config.identity()

    assert identity() == identity("report.gallery=3")
    assert identity() != identity("train.batch_size=16")
    assert identity() != identity("train.mimic={tower: text}")


@pytest.mark.parametrize("label", ["pool", "reference", "train", "selectors", "binarize", "select", "reshard"])
def test_until_a_stage_is_closed_under_inputs_and_ends_with_that_label(label):
    nodes = upto(assemble(config()), label)
    names = {node.name for node in nodes}
    assert all(set(node.inputs.values()) <= names for node in nodes)
    assert label in {node.label for node in nodes}
    fed = {source for node in nodes for source in node.inputs.values()}
    assert {node.label for node in nodes if node.name not in fed} == {label}


def test_until_an_unknown_stage_names_those_there_are():
    with pytest.raises(UserError, match="no such stage") as error:
        upto(assemble(config()), "selekt")
    assert "select" in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("reference.base.batch_size=33", "reference.base"),
        ("reference.tune={epochs: 2, batch_size: 30}", "reference.tune"),
        ("evaluate.retrain={epochs: 2, batch_size: 33}", "evaluate.retrain"),
    ],
)
def test_phase_that_does_not_go_with_the_training_is_refused_by_its_key(override, key):
    with pytest.raises(UserError, match=f"{key} does not go with the `train` block") as error:
        _nodes(override)
    assert "must be a multiple of lanes" in str(error.value)
    assert error.value.exit_code == 2
