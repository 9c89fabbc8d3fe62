import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import ArtifactWriter
from pipeline.config_base import Config
from pipeline.errors import UserError
from pipeline.rates import RatesConfig
from pipeline.stage import Size, StageResult
from pipeline.storage import Storage
from stages.evaluate_retrain import RandomSubsetStage, priorities
from tests.artifacts import commit, run_stage


def _uids(count, seed=0):
    pairs = np.random.default_rng(seed).integers(0, 2**64, (count, 2), np.uint64)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order, 0], pairs[order, 1]


def _pool(root, hi, lo, bits):
    writer = ArtifactWriter(str(root), Storage())
    buckets = (hi >> np.uint64(64 - bits)).astype(int) if bits else np.zeros(len(hi), int)
    files = []
    for bucket in range(1 << bits):
        rows = buckets == bucket
        files.append(
            writer.put_table(f"index/bucket-{bucket:05d}.parquet", pa.table({"uid_hi": hi[rows], "uid_lo": lo[rows]}))
        )
    return commit(root, "pool", StageResult(tuple(files), {"bucket_bits": bits}))


def _subset(root, kept):
    return commit(root, "subset", StageResult((), {"kept": kept}))


def _draw(tmp_path, hi, lo, kept, bits=2, seed=0):
    inputs = {"pool": _pool(tmp_path / "pool", hi, lo, bits), "subset": _subset(tmp_path / "subset", kept)}
    artifact = run_stage(RandomSubsetStage(Config()), tmp_path / "out", "subset_random", inputs=inputs, seed=seed)
    return artifact, np.load(artifact.uri("sample_ids.npy"))


def test_draws_as_many_as_were_kept_sorted_and_from_the_pool(tmp_path):
    hi, lo = _uids(1000)
    artifact, drawn = _draw(tmp_path, hi, lo, 333)
    assert (len(drawn), drawn.dtype) == (333, np.dtype("u8,u8"))
    assert np.array_equal(drawn, np.unique(drawn))
    assert set(drawn.tolist()) <= set(zip(hi.tolist(), lo.tolist(), strict=True))
    assert artifact.summary["kept"] == 333
    assert artifact.manifest.counts.dropped == {"not_drawn": 667}


def test_draw_is_the_highest_priorities(tmp_path):
    hi, lo = _uids(500)
    _, drawn = _draw(tmp_path, hi, lo, 50, seed=9)
    best = np.sort(np.argsort(priorities(hi, lo, 9))[-50:])
    assert np.array_equal(drawn["f0"], hi[best])


@pytest.mark.parametrize("bits", [0, 1, 4])
def test_buckets_have_no_say(tmp_path, bits):
    hi, lo = _uids(400)
    assert np.array_equal(_draw(tmp_path / "a", hi, lo, 100, 2)[1], _draw(tmp_path / "b", hi, lo, 100, bits)[1])


def test_another_seed_draws_others(tmp_path):
    hi, lo = _uids(1000)
    first, second = (_draw(tmp_path / str(seed), hi, lo, 500, seed=seed)[1] for seed in (1, 2))
    assert 200 < len(np.intersect1d(first, second)) < 300  # about a half by chance


def test_whole_pool_can_be_drawn(tmp_path):
    hi, lo = _uids(64)
    assert len(_draw(tmp_path, hi, lo, 64)[1]) == 64


def test_nothing_kept_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="nothing was kept"):
        _draw(tmp_path, *_uids(10), 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 2**32))
def test_priorities_of_neighbouring_uids_look_independent(seed, start):
    lo = np.arange(start, start + 4096, dtype=np.uint64)
    values = priorities(np.zeros(4096, np.uint64), lo, seed) / 2.0**64
    assert abs(values.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.08


def test_priorities_depend_on_both_halves_and_the_seed():
    hi, lo = _uids(100)
    base = priorities(hi, lo, 0)
    for other in (priorities(hi + np.uint64(1), lo, 0), priorities(hi, lo + np.uint64(1), 0), priorities(hi, lo, 1)):
        assert not np.any(base == other)


def test_each_sample_is_drawn_about_equally_often(tmp_path):
    hi, lo = _uids(64)
    times = np.zeros(64)
    for seed in range(60):
        times += np.isin(hi, _draw(tmp_path / str(seed), hi, lo, 32, bits=0, seed=seed)[1]["f0"])
    assert 12 <= times.min() <= times.max() <= 48  # 30 expected, 3.9 the standard deviation


def test_plan_is_sixteen_bytes_a_sample():
    plan = RandomSubsetStage(Config()).plan({"pool": Size(1000, 0), "subset": Size(300, 0)}, RatesConfig().model_dump())
    assert (plan.output.rows, plan.output.bytes) == (300, 4800)


def _splitmix(value):
    """splitmix64's finaliser, in Python's own integers."""
    mask = 2**64 - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_priority_equals_plain_integer_arithmetic(hi, lo, seed):
    mask = 2**64 - 1
    start = (hi + ((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & mask)) & mask
    expected = _splitmix(_splitmix(start) ^ _splitmix((lo + 0xD1B54A32D192ED03) & mask))
    assert priorities(np.array([hi], np.uint64), np.array([lo], np.uint64), seed).tolist() == [expected]


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 2**31))
def test_larger_subset_holds_the_smaller_one(tmp_path_factory, one, other, seed):
    root = tmp_path_factory.mktemp("nested")
    hi, lo = _uids(120)
    small, large = (
        set(_draw(root / name, hi, lo, kept, bits=1, seed=seed)[1].tolist())
        for name, kept in (("small", min(one, other)), ("large", max(one, other)))
    )
    assert small <= large
    assert len(small) == min(one, other)


def test_draw_is_spread_over_all_uids(tmp_path):
    """Not of one end of the uids, where the kept ones might lie."""
    hi, lo = _uids(2000)
    _, drawn = _draw(tmp_path, hi, lo, 1000)
    first_half = np.isin(drawn["f0"], hi[:1000]).mean()
    assert abs(first_half - 0.5) < 0.06


def test_draw_of_spread_uids_is_the_highest_by_sorting(tmp_path):
    hi = np.arange(8, dtype=np.uint64) << np.uint64(61)
    _, drawn = _draw(tmp_path, hi, np.arange(8, dtype=np.uint64), 3, seed=0)
    ranked = sorted(range(8), key=lambda n: int(priorities(hi[n : n + 1], np.array([n], np.uint64), 0)[0]))
    assert drawn["f1"].tolist() == sorted(ranked[-3:])
