"""Rates by default are those that were measured, and each can be overridden."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.rates import RatesConfig

MEASURED = json.loads((Path(__file__).parents[2] / "benchmarks/results/rates.json").read_text())


@pytest.mark.parametrize("name", sorted(MEASURED["rates"]))
def test_rate_by_default_is_the_measured_one(name: str) -> None:
    assert RatesConfig().model_dump()[name] == float(f"{MEASURED['rates'][name]:.2g}")


@pytest.mark.parametrize("stage", sorted(MEASURED["foretold"]["seconds"]))
def test_plan_foretold_the_seconds_of_a_size_that_its_rates_are_not_from(stage: str) -> None:
    seconds = MEASURED["foretold"]["seconds"][stage]
    assert seconds["planned"] == pytest.approx(seconds["real"], rel=0.3)


def test_rates_that_were_not_measured_say_where_they_come_from() -> None:
    for name, field in RatesConfig.model_fields.items():
        if name in MEASURED["rates"] or name.startswith("usd_"):
            continue
        text = field.description or ""
        assert any(word in text for word in ("estimate", "DataComp", "img2dataset", "not measured", "third")), name


def test_rate_is_overridden_and_no_rate_is_zero() -> None:
    assert RatesConfig(gather_rows_per_second_per_cpu=5.0).gather_rows_per_second_per_cpu == 5.0
    with pytest.raises(ValidationError):
        RatesConfig(gather_rows_per_second_per_cpu=0.0)
