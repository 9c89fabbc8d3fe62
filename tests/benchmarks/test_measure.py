"""Pairs, intervals and peaks of memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from benchmarks.measure import PeakMemory, Run, bootstrap, in_fresh_process, run_pairs, timed, tree_bytes

MIB = 1 << 20


def contender(name, calls, seconds=1.0, counts=None):
    def run():
        calls.append(name)
        return Run(seconds if isinstance(seconds, float) else seconds.pop(0), counts or {"rows": 5}, 7)

    return run


def test_bootstrap_interval_is_that_of_scipy():
    ratios = np.random.default_rng(1).lognormal(0, 0.2, 25)
    ours = bootstrap(list(ratios))
    theirs = stats.bootstrap((ratios,), np.median, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert ours.median == np.median(ratios)
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)


def test_bootstrap_interval_holds_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    intervals = [bootstrap(list(rng.normal(1, 0.1, 20))) for _ in range(150)]
    held = np.mean([ratio.low <= 1 <= ratio.high for ratio in intervals])
    assert held > 0.88


def test_bootstrap_of_one_ratio_is_that_ratio():
    ratio = bootstrap([0.5])
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.5)


def test_pairs_alternate_who_is_first_and_leave_the_warm_up_out():
    calls = []
    ours = contender("a", calls, [100.0, 1.0, 2.0, 3.0])
    pairs = run_pairs(ours, contender("b", calls, [100.0, 2.0, 2.0, 2.0]), 3)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(pairs) == 3
    assert [run.seconds for run in pairs.ours] == [1.0, 2.0, 3.0]
    assert pairs.seconds() == {"ours": 2.0, "theirs": 2.0}
    assert pairs.slowdown().median == 1.0
    assert pairs.speedup().median == 1.0
    assert (pairs.slowdown().low, pairs.slowdown().high) == (0.5, 1.5)


def test_pairs_ratio_memory_of_ours_to_theirs():
    calls = []
    pairs = run_pairs(contender("a", calls), lambda: Run(1.0, {"rows": 5}, 14), 2)
    assert pairs.memory().median == 0.5


@pytest.mark.parametrize("other", [{"rows": 4}, {"rows": 5, "bytes": 1}, {}])
def test_pairs_fail_where_a_contender_lost_a_row(other):
    calls = []
    with pytest.raises(AssertionError, match="theirs gave"):
        run_pairs(contender("a", calls), lambda: Run(1.0, other), 2)


def test_pairs_fail_where_a_later_run_gives_less_though_contenders_may_differ():
    counts = iter([{"rows": 9}, {"rows": 9}, {"rows": 8}])
    with pytest.raises(AssertionError, match="theirs gave"):
        run_pairs(contender("a", []), lambda: Run(1.0, next(counts)), 3, same_counts=False)


def test_timed_run_has_the_counts_of_the_work():
    run = timed(lambda: {"rows": 3})
    assert run.counts == {"rows": 3}
    assert run.seconds >= 0
    assert run.peak_bytes is None


def allocate(num_mib):
    block = np.ones(num_mib * MIB, np.uint8)
    return int(block[:: MIB // 2].sum())


def fail():
    raise ValueError("no such thing")


def die():
    os._exit(9)


def allocate_in_child(num_mib):
    code = f"import time; block = b'x' * ({num_mib} << 20); time.sleep(0.5)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fresh_process_gives_value_and_peak_above_idle():
    value, run = in_fresh_process(allocate, 300)
    assert value == 600
    assert run.seconds > 0
    assert 260 * MIB < run.peak_bytes < 350 * MIB  # less where the kernel takes back what lies idle


def test_fresh_process_counts_the_memory_of_its_children():
    _, run = in_fresh_process(allocate_in_child, 200)
    assert 160 * MIB < run.peak_bytes < 260 * MIB


@pytest.mark.parametrize(("work", "said"), [(fail, "ValueError: no such thing"), (die, "ended with 9")])
def test_fresh_process_that_fails_is_an_error(work, said):
    with pytest.raises(RuntimeError, match=said):
        in_fresh_process(work)


def test_peak_memory_outlives_what_was_freed():
    with PeakMemory() as memory:
        allocate(256)
        held = tree_bytes(os.getpid())
    assert memory.above_idle > 200 * MIB
    assert memory.peak >= held


def test_peak_memory_of_the_process_alone_leaves_its_children_out():
    with PeakMemory(children=False) as alone, PeakMemory() as tree:
        allocate_in_child(200)
    assert tree.above_idle > 190 * MIB
    assert alone.above_idle < 100 * MIB
