from typing import Any

import pytest
from pydantic import ValidationError

from stages.models.config import ModelConfig
from stages.train.config import EffectiveBatch, MimicConfig, TrainConfig
from stages.train.reference_config import PhaseConfig, ReferenceConfig, phase_train_config

MODEL = ModelConfig(name="ViT-B-32")


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"model": MODEL, "epochs": 5, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples_seen": 10}, "exactly one of"),
        ({"epochs": None}, "exactly one of"),
        ({"method": "score"}, "one pass with frozen weights"),
        ({"temperature": 0.0}, "above 0"),
        ({"batch_size": 100, "lanes": 8}, "multiple of lanes"),
        ({"lanes": 8, "num_workers": 3, "batch_size": 96}, "multiple of num_workers"),
        ({"accumulation": 3}, "multiple of accumulation"),
        ({"mimic": {"parameters": ["a", "a"]}}, "twice"),
        ({"mimic": {"parameters": []}}, "at least 1"),
        ({"temperature": {"effective_batch": 1.5}}, "less than or equal to 1"),
        ({"nonsense": 1}, "Extra inputs"),
    ],
)
def test_config_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({"model": {"name": "ViT-B-32"}, "epochs": 5, **changes})


def test_config_reads_both_kinds_of_temperature() -> None:
    assert TrainConfig.model_validate({"model": {"name": "ViT-B-32"}, "epochs": 1, "temperature": 1}).temperature == 1.0
    found = TrainConfig.model_validate(
        {"model": {"name": "ViT-B-32"}, "epochs": 1, "temperature": {"effective_batch": 0.9}}
    )
    assert found.temperature == EffectiveBatch(effective_batch=0.9)


def test_identity_holds_ranks_lanes_and_threads_but_no_placement() -> None:
    identity = config().identity()
    assert {"num_workers", "lanes", "threads_per_rank", "use_gpu", "precision", "decode"} <= identity.keys()
    assert not {"loader_threads", "loader_processes", "max_retries"} & identity.keys()
    assert config(decode="draft").identity() != identity


def test_loader_threads_beside_processes_are_said_to_have_no_effect() -> None:
    (line,) = config(loader_processes=2, loader_threads=4).without_effect()
    assert line.startswith("loader_threads: no effect")
    assert config(loader_processes=2).without_effect() == config(loader_threads=4).without_effect() == []


def test_phase_inherits_what_it_does_not_say() -> None:
    phase = phase_train_config(config(batch_size=512, learning_rate=1e-4), PhaseConfig(epochs=2, learning_rate=1e-3))
    assert (phase.epochs, phase.learning_rate, phase.batch_size, phase.method) == (2, 1e-3, 512, "uniform")


def test_phase_length_replaces_the_other_kind() -> None:
    phase = phase_train_config(config(), PhaseConfig(samples_seen=1000))
    assert (phase.epochs, phase.samples_seen) == (None, 1000)


def test_phase_does_not_depend_on_what_only_scores_use() -> None:
    said = PhaseConfig(epochs=2)
    plain = phase_train_config(config(), said)
    other = phase_train_config(config(temperature=0.3, mimic=MimicConfig(tower="text"), method="uniform"), said)
    assert plain.identity() == other.identity()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needs `tune` and `trusted`"),
        ({"tune": {"epochs": 1}}, "needs `tune` and `trusted`"),
        ({"source": "laion2b", "tune": {"epochs": 1}}, "no effect"),
        ({"source": "laion2b", "base": {}}, "exactly one"),
    ],
)
def test_reference_that_cannot_work_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReferenceConfig.model_validate(values)
