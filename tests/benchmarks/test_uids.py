"""Uids by rank."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.scale.draws import rows
from benchmarks.scale.uids import Uids
from stages.kernels.uid import bucket_of


@pytest.mark.parametrize("num_samples", [1, 2, 3, 1000, 4097])
@pytest.mark.parametrize("num_bits", [0, 1, 3, 6])
def test_buckets_are_the_uids_with_their_prefix_each_once_in_order(num_samples, num_bits):
    uids = Uids(num_samples, seed=num_bits)
    ranks = [uids.bucket(number, num_bits) for number in range(1 << num_bits)]
    assert np.array_equal(np.concatenate(ranks), rows(0, num_samples))
    for number, rank in enumerate(ranks):
        assert (bucket_of(uids.hi(rank), num_bits) == number).all()


def test_uids_ascend_and_are_distinct():
    hi = Uids(100_000).hi(rows(0, 100_000))
    assert (hi[1:] > hi[:-1]).all()


def test_uids_look_like_digests():
    uids, rank = Uids(20_000), rows(0, 20_000)
    for half in (uids.hi(rank), uids.lo(rank)):
        assert stats.kstest(half.astype(float) / 2**64, "uniform").pvalue > 1e-3
        ones = np.unpackbits(half.view(np.uint8)).reshape(-1, 64).mean(axis=0)
        assert np.abs(ones - 0.5).max() < 0.02


def test_uids_of_another_seed_are_others():
    rank = rows(0, 1000)
    assert not np.isin(Uids(1000, 1).lo(rank), Uids(1000, 2).lo(rank)).any()
