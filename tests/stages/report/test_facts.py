import json

import pytest

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from stages.report.facts import collect, seconds_by_stage, trainings
from stages.report.survey import survey
from tests.stages.report.test_auc import _pool


@pytest.fixture(scope="module")
def tally(finished):
    return survey(Engine(ClusterConfig(executor="in_process"), Reporter()), _pool(finished)).tally


def test_facts_are_canonical_json_without_nan(finished, tally):
    facts = collect(finished.inputs, tally, {"mimic": 0.9}, 3)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_facts_scores_name_each_visit(finished, tally):
    scores = collect(finished.inputs, tally, None, 0)["scores"]["by_selector"]
    assert scores["mimic"]["by_visit"] == [600, 600, 600]
    assert scores["clip_score"]["scored"] == 540


def test_facts_of_truth_keep_what_could_not_be_judged_as_none(finished, tally):
    truth = collect(finished.inputs, tally, {"mimic": None}, 0)["truth"]
    assert truth["mimic_auc"] is None
    assert truth["judged"] == int((~finished.trusted).sum())


def test_facts_run_has_seed_fingerprints_and_versions(finished, tally):
    run = collect(finished.inputs, tally, None, 5)["run"]
    assert run["seed"] == 5
    assert run["fingerprints"]["pool"] == "ab" * 8
    assert run["versions"]["python"] == "3.11.9"


def test_facts_without_mimic_take_the_widest_coverage(finished, tally):
    inputs = {role: artifact for role, artifact in finished.inputs.items() if "mimic" not in role}
    means = {name: bins for name, bins in tally.means.items() if name != "mimic"}
    facts = collect(inputs, type(tally)(means, tally.values, tally.clean), None, 0)
    assert facts["scores"]["coverage"] == 1.0
    assert "steps" not in facts["train"]


def test_seconds_are_those_of_the_manifests(finished):
    seconds = seconds_by_stage(finished.inputs)
    assert seconds["pool"] == 3.1
    assert set(seconds) == set(finished.inputs)


def test_trainings_put_the_scored_one_first(finished):
    assert list(trainings(finished.inputs)) == ["mimic", "base"]
