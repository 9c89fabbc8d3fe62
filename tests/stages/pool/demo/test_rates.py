import dataclasses

import pytest

from stages.pool.demo.rates import IllRates


def test_counts_of_the_default_pool():
    assert IllRates().counts(8192) == {
        "mismatched": 2048,
        "short_caption": 328,
        "long_caption": 246,
        "near_duplicate": 246,
        "tiny": 164,
        "extreme_aspect": 164,
        "truncated_image": 16,
        "no_caption": 16,
        "missing": 82,
    }


@pytest.mark.parametrize("num_samples", [128, 129, 1000])
def test_every_ill_occurs_in_the_smallest_pool(num_samples):
    counts = IllRates().counts(num_samples)
    assert min(counts.values()) >= 1
    assert sum(counts.values()) < num_samples // 2


def test_share_of_zero_plants_none():
    rates = dataclasses.replace(IllRates(), tiny=0.0)
    assert rates.counts(1000)["tiny"] == 0
    assert rates.counts(1000)["extreme_aspect"] == 20
