"""What is refused, and what is warned of, by the configuration alone."""

import pytest
import torch

from pipeline.config_checks import check_gpus, check_metadata, check_voters, num_visits, warnings_of
from pipeline.errors import UserError
from tests.pipeline.shipped import SHIPPED, config


def test_visits_follow_epochs_for_what_training_scores() -> None:
    assert num_visits(config()) == {"mimic": 2, "loss": 2, "clip_score": 1, "reference_clip_score": 1}


@pytest.mark.parametrize(
    ("seen", "expected", "visits"), [(512, 512, 1), (513, 512, 2), (1024, 512, 2), (1, 512, 1), (900, None, 1)]
)
def test_visits_of_samples_seen_are_rounded_up(seen: int, expected: int | None, visits: int) -> None:
    size = "null" if expected is None else expected
    seen_so = config("train.epochs=null", f"train.samples_seen={seen}", f"pool.expected_samples={size}")
    assert num_visits(seen_so)["mimic"] == visits


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("selectors={}", "at least 3 voters, there are 2"),
        ("binarize.voters={mimick: {}}", "mimick"),
        ("binarize.method=threshold", "clip_score: its scores belong to no batch; give a number"),
        ("binarize={method: threshold, voters: {mimic: {}, loss: {}}}", "losses have no weight"),
        ("binarize={voters: {mimic: {}, loss: {method: threshold, scale: weight}}}", "losses have no weight"),
        ("binarize.voters={mimic: {visits: [2]}, loss: {}}", "visits [2] are asked for, but it makes 2"),
    ],
)
def test_votes_that_cannot_be_cast_are_refused_before_work(override: str, said: str) -> None:
    with pytest.raises(UserError, match="the votes do not fit") as error:
        check_voters(config(override))
    assert said in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "override",
    [
        "binarize={method: threshold, threshold: 0.5, scale: batch_rank}",
        "binarize={voters: {mimic: {method: threshold}, loss: {method: threshold, scale: raw, threshold: -3.5}}}",
        "binarize.method=gmm",
    ],
)
def test_votes_that_can_be_cast_pass(override: str) -> None:
    check_voters(config(override))


def test_selectors_without_the_metadata_that_they_read_are_named() -> None:
    check_metadata(config())
    with pytest.raises(UserError, match="pool has none") as error:
        check_metadata(config("pool.metadata=null"))
    assert "selectors.clip_score" in str(error.value)
    assert "selectors.reference_clip_score" not in str(error.value)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_configuration_has_nothing_to_be_warned_of(name: str) -> None:
    assert warnings_of(config(text=SHIPPED[name])) == []
    assert warnings_of(config()) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.method=uniform"], "train: temperature: no effect with `method: uniform`"),
        (["train.method=score", "train.epochs=1", "train.temperature=0.05"], "train: learning_rate: no effect"),
        (["train.method=score", "train.epochs=1", "train.temperature=0.05"], "train: warmup: no effect"),
        (["train.mimic={tower: both, parameters: [visual.proj]}"], "train.mimic: tower: no effect beside"),
        (["aggregate={method: majority, steps: 5}"], "aggregate: steps: no effect with `method: majority`"),
        (["aggregate={method: mean_score, l2: 0.5}"], "aggregate: l2: no effect with `method: mean_score`"),
        (["binarize={method: gmm, fraction: 0.4}"], "binarize: `fraction` has no effect: nobody votes"),
        (["binarize={method: gmm, fraction: 0.4, of: pool}"], "`fraction`, `of` have no effect"),
        (
            ["binarize.voters={mimic: {}, loss: {method: gmm, fraction: 0.4}}"],
            "binarize: voters.loss: `fraction` has no effect with `method: gmm`",
        ),
        (["binarize.voters={mimic: {}, loss: {}, clip_score: {scale: batch_z}}"], "voters.clip_score: `scale`"),
        (["select.seed=3"], "select: seed: no effect"),
        (["select.rule={top: {by: p_keep, count: 5, of: scored}}"], "select.rule.top: of: `scored` has no effect"),
        (["select.rule={all: [{bottom: {by: mimic, count: 5, of: scored}}]}"], "select.rule.all.bottom: of:"),
        (["select.rule={not: {basic: {language: any, wanted: de}}}"], "select.rule.not.basic: wanted: no effect"),
        (["selectors.x={kind: basic, language: ascii_heuristic, wanted: de}"], "selectors.x: wanted: no effect"),
        (["evaluate.device=cuda", "evaluate.threads=4"], "evaluate: threads: no effect with `device: cuda`"),
        (["cluster={executor: in_process, num_cpus: 4}"], "cluster: num_cpus: no effect with `executor: in_process`"),
        (["cluster={address: '10.0.0.1:6379', object_store_memory: 9}"], "cluster: object_store_memory: no effect"),
    ],
)
def test_setting_without_effect_is_told_with_its_key(overrides: list[str], said: str) -> None:
    found = warnings_of(config(*overrides))
    assert [line for line in found if said in line], found


def test_setting_that_has_an_effect_or_its_default_value_is_not_told() -> None:
    quiet = (
        "select={seed: 3, rule: {all: [{top: {by: p_keep, fraction: 0.5}}, {top: {by: random, count: 9}}]}}",
        "aggregate={method: majority, steps: 1000}",
        "selectors.x={kind: basic, language: 'column:lang', wanted: de}",
        "binarize.voters={mimic: {scale: batch_z}, loss: {}, clip_score: {scale: raw}}",
    )
    assert warnings_of(config(*quiet)) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["binarize.fraction=0.3"], ["clip_score, loss, mimic, reference_clip_score keep 0.3, the selection 0.5"]),
        (["select.rule.top.fraction=0.25"], ["keep 0.5, the selection 0.25"]),
        (["binarize={fraction: 0.5, voters: {mimic: {}, loss: {fraction: 0.4}, clip_score: {}}}"], ["loss keeps 0.4"]),
        (["binarize={fraction: 0.3, method: kmeans}"], []),
        (["binarize.fraction=0.3", "aggregate.method=mean_score"], []),
        (["binarize.fraction=0.3", "select.rule={top: {by: mimic, fraction: 0.5}}"], []),
    ],
)
def test_voters_of_another_fraction_than_the_selection_are_told_where_votes_matter(
    overrides: list[str], said: list[str]
) -> None:
    found = [line for line in warnings_of(config(*overrides)) if "the selection" in line]
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_training_on_gpus_that_are_not_there_is_refused_unless_a_cluster_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_gpus(config("train.use_gpu=true"))
    check_gpus(config("train.num_workers=2"))
    two = ("train.use_gpu=true", "train.num_workers=2")
    with pytest.raises(UserError, match="not as many GPUs") as error:
        check_gpus(config(*two))
    assert "1 on this machine" in str(error.value)
    check_gpus(config(*two, "cluster.address='10.0.0.1:6379'"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_gpus(config(*two))
