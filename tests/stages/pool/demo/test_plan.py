from collections import Counter

import numpy as np
import pytest

from stages.pool.demo.plan import LOST_BY_TRUNCATION, plan_pool
from stages.pool.demo.rates import IllRates
from stages.pool.demo.sources import split_sources

SOURCE = split_sources(0)["pool"]
RATES = IllRates()


@pytest.fixture(scope="module")
def plan():
    return plan_pool(SOURCE, 1000, 4, RATES)


def test_each_ill_has_its_share(plan):
    planted = Counter(ill for sample in plan.samples for ill in sample.ills)
    special = {"truncated_tar": LOST_BY_TRUNCATION, "duplicate_uid": 1}
    expected = {**RATES.counts(1000), **special}
    assert planted == {name: count for name, count in expected.items() if name != "missing"}
    assert len(plan.missing) == 10


def test_sample_carries_one_planted_ill_at_most(plan):
    assert all(len(set(sample.ills) - {"truncated_tar"}) <= 1 for sample in plan.samples)


def test_mismatched_caption_is_true_of_another_mismatched_picture_with_other_digits(plan):
    mismatched = [sample for sample in plan.samples if sample.mismatched]
    assert Counter(sample.caption for sample in mismatched) == Counter(sample.true_caption for sample in mismatched)
    contents = {}
    for sample in mismatched:
        contents.setdefault(sample.true_caption, set()).add(sample.scene.digits)
    assert all(contents[sample.caption] != {sample.scene.digits} for sample in mismatched)


def test_clean_caption_is_the_true_one(plan):
    assert all(sample.caption == sample.true_caption for sample in plan.samples if not sample.ills)


def test_near_duplicate_shows_the_scene_of_an_earlier_clean_sample(plan):
    place = {sample.uid: index for index, sample in reversed(list(enumerate(plan.samples)))}
    repeats = [(index, s) for index, s in enumerate(plan.samples) if "near_duplicate" in s.ills]
    assert len(repeats) == 30
    for index, sample in repeats:
        origin = plan.samples[place[sample.duplicate_of]]
        assert place[origin.uid] < index
        assert origin.scene == sample.scene
        assert not set(origin.ills) - {"truncated_tar", "duplicate_uid"}
        assert origin.shot != sample.shot


def test_basic_filter_separates_tiny_and_extreme_pictures_from_all_others(plan):
    for sample in (*plan.samples, *plan.missing):
        short, long = sorted((sample.original_width, sample.original_height))
        assert (short >= 200) == ("tiny" not in sample.ills)
        assert (long / short <= 3) == ("extreme_aspect" not in sample.ills)


def test_stored_size_keeps_the_aspect_and_is_never_enlarged(plan):
    for sample in plan.samples:
        assert max(sample.shot.width, sample.shot.height) == min(96, max(sample.original_width, sample.original_height))
        stored, original = sample.shot.width / sample.shot.height, sample.original_width / sample.original_height
        assert abs(np.log(stored / original)) < 0.5 / min(sample.shot.width, sample.shot.height) + 0.01


def test_one_uid_comes_twice_the_second_time_marked(plan):
    uids = Counter(sample.uid for sample in (*plan.samples, *plan.missing))
    (twice,) = (uid for uid, count in uids.items() if count > 1)
    first, second = (sample for sample in plan.samples if sample.uid == twice)
    assert first.ills == ()
    assert second.ills == ("duplicate_uid",)


def test_trusted_samples_are_clean_and_an_eighth(plan):
    trusted = [sample for sample in plan.samples if sample.trusted]
    assert len(trusted) == 125
    assert not any(sample.ills for sample in trusted)


def test_lost_samples_end_a_full_shard(plan):
    lost = [index for index, sample in enumerate(plan.samples) if "truncated_tar" in sample.ills]
    end = (plan.truncated_shard + 1) * plan.samples_per_shard
    assert lost == list(range(end - LOST_BY_TRUNCATION, end))


def test_shards_hold_all_samples_once(plan):
    assert tuple(s for shard in range(plan.num_shards) for s in plan.shard(shard)) == plan.samples
    assert plan.num_shards >= 8


def test_plan_depends_on_seed_size_and_rates_alone(plan):
    assert plan_pool(SOURCE, 1000, 4, RATES) == plan
    assert plan_pool(SOURCE, 1000, 5, RATES) != plan


def test_rates_can_be_switched_off():
    none = IllRates(**dict.fromkeys(vars(RATES), 0.0))
    plan = plan_pool(SOURCE, 200, 0, none)
    assert {ill for sample in plan.samples for ill in sample.ills} == {"truncated_tar", "duplicate_uid"}
    assert plan.missing == ()


def test_plan_golden_values():
    plan = plan_pool(SOURCE, 256, 0, RATES)
    first, second = plan.samples[:2]
    assert first.uid == "a5c2d1b9026817db92dcda8e93346a61"
    assert (first.original_width, first.original_height, first.scene.digits) == (524, 529, (6,))
    assert second.caption == "a white eight"
    assert (plan.num_shards, plan.truncated_shard) == (8, 6)
