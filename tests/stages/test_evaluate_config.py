import pytest
from pydantic import ValidationError

from stages.evaluate_config import EvaluateConfig, RetrainConfig


def test_defaults_evaluate_each_epoch_and_do_not_retrain():
    config = EvaluateConfig(data="eval")
    assert (config.every, config.retrain, config.device) == ("epoch", None, "cpu")


def test_retrain_off_is_none():
    assert EvaluateConfig.model_validate({"data": "eval", "retrain": "off"}).retrain is None


def test_retrain_block_is_read():
    config = EvaluateConfig.model_validate({"data": "eval", "retrain": {"epochs": 3, "learning_rate": 1e-3}})
    assert config.retrain == RetrainConfig(epochs=3, learning_rate=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"retrain": "on"},
        {"retrain": {"epochs": 1, "samples_seen": 5}},
        {"every": "step"},
        {"batch_size": 0},
        {"dta": "x"},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValidationError):
        EvaluateConfig.model_validate({"data": "eval", **wrong})
