import pytest

from stages.binarize_config import BinarizeConfig, VoterConfig


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.0001, float("nan")])
def test_binarize_config_fraction_outside_zero_one_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        BinarizeConfig(fraction=fraction)


@pytest.mark.parametrize(
    "block",
    [
        {"voters": {}},
        {"visits": []},
        {"visits": [0, 0]},
        {"visits": [-1]},
        {"voters": {"mimic": {"visits": [1, 1]}}},
        {"method": "threshold", "scale": "batch_rank"},
        {"scale": "rank"},
        {"threshold": 0.5},
        {"method": "threshold", "voters": {"loss": {"method": "kmeans"}}, "threshold": 0.5},
        {"voters": {"mimic": {"frac": 0.5}}},
    ],
)
def test_binarize_config_contradictions_are_refused(block):
    with pytest.raises(ValueError):
        BinarizeConfig.model_validate(block)


def test_binarize_config_voting_names_the_nearest_selector():
    config = BinarizeConfig(voters={"mimc": VoterConfig()})
    with pytest.raises(ValueError, match="did you mean 'mimic'"):
        config.voting(["mimic", "loss"])


def test_binarize_config_foretells_the_number_of_voters():
    visits = {"mimic": 5, "loss": 5, "clip": 1}
    assert BinarizeConfig().num_voters(visits) == 11
    assert BinarizeConfig(visits="mean").num_voters(visits) == 3
    assert BinarizeConfig(voters={"mimic": VoterConfig(visits=[1, 4]), "clip": VoterConfig()}).num_voters(visits) == 3
    with pytest.raises(ValueError, match="at most 40"):
        BinarizeConfig().num_voters({"mimic": 41})
    with pytest.raises(ValueError, match=r"visits \[7\]"):
        BinarizeConfig(visits=[0, 7]).num_voters(visits)


def test_binarize_config_a_voters_own_fields_win():
    config = BinarizeConfig(
        fraction=0.4, voters={"clip": VoterConfig(fraction=0.2, visits="last"), "mimic": VoterConfig()}
    )
    clip, mimic = config.merged("clip"), config.merged("mimic")
    assert (clip.fraction, clip.visits, clip.method) == (0.2, "last", "top_fraction")
    assert (mimic.fraction, mimic.visits, mimic.method) == (0.4, "all", "top_fraction")


def test_binarize_config_default_scales():
    def scales(batched, **fields):
        return [voter.scale for voter in BinarizeConfig(**fields).voters_of("mimic", 1, batched)]

    assert scales("batched") == ["batch_rank"]
    assert scales("batched", method="threshold") == ["weight"]
    assert scales("batched", scale="batch_z") == ["batch_z"]
    assert scales("unbatched", scale="batch_z") == ["raw"]
    voters = BinarizeConfig(method="threshold").voters_of("mimic", 2, "batched")
    assert [(voter.name, voter.threshold) for voter in voters] == [("mimic__0", 1.0), ("mimic__1", 1.0)]


def test_binarize_config_threshold_on_unbatched_scores_needs_a_number():
    with pytest.raises(ValueError, match="belong to no batch"):
        BinarizeConfig(method="threshold").voters_of("clip", 1, "unbatched")
    (voter,) = BinarizeConfig(method="threshold", threshold=0.28).voters_of("clip", 1, "unbatched")
    assert (voter.scale, voter.threshold) == ("raw", 0.28)
