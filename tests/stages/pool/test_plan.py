import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rates import RatesConfig
from stages.pool.config import PoolConfig
from stages.pool.plan import plan_pool

RATES = RatesConfig().model_dump()


def test_plan_without_expectation_says_what_to_set() -> None:
    plan = plan_pool(PoolConfig(path="p"), RATES)
    assert (plan.output.rows, plan.cpu_hours) == (0, 0)
    assert "pool.expected_samples" in plan.note


@settings(deadline=None)
@given(st.integers(1, 13 * 10**9), st.integers(1000, 10**7))
def test_plan_memory_of_a_task_is_bounded_by_the_bucket(samples: int, bucket_rows: int) -> None:
    config = PoolConfig(path="p", expected_samples=samples, bucket_rows=bucket_rows)
    plan = plan_pool(config, RATES)
    assert plan.output.rows == samples
    if samples <= bucket_rows << 20:  # more buckets than that are never made
        assert plan.peak_task_bytes <= max(600 << 20, bucket_rows * 900)


@pytest.mark.parametrize("samples", [12_800_000, 128_000_000])
def test_plan_decoding_costs_more_than_headers_and_metadata_more_bytes(samples: int) -> None:
    base = {"path": "p", "expected_samples": samples}
    decode, headers = (plan_pool(PoolConfig(**base, check=check), RATES) for check in ("decode", "headers"))
    assert decode.cpu_hours > headers.cpu_hours > 0
    assert plan_pool(PoolConfig(**base, metadata="m"), RATES).output.bytes > decode.output.bytes


def test_plan_of_a_trial_names_its_share() -> None:
    assert "1.0%" in plan_pool(PoolConfig(path="p", expected_samples=1000, sample=0.01), RATES).note


def test_plan_says_that_nobody_looked_at_the_pool() -> None:
    assert plan_pool(PoolConfig(path="p", expected_samples=1000), RATES).note.startswith(
        "as pool.expected_samples says"
    )
