import numpy as np

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from stages.report.gallery import choose, wishes
from stages.report.survey import survey
from stages.report.view import P_KEEP
from tests.stages.report.synthetic import make_run
from tests.stages.report.test_auc import _pool


def _chosen(run, count=10):
    engine = Engine(ClusterConfig(executor="in_process"), Reporter())
    pool = _pool(run)
    wanted = wishes([source.name for source in pool.sources], count)
    return choose(engine, pool, wanted, survey(engine, pool).tally.means)


def _rows(run, shown):
    uids = run.uids
    return [uids.index(one.uid) for one in shown]


def test_gallery_highest_and_lowest_are_the_extremes_of_the_mean_score(finished):
    chosen = _chosen(finished)
    values = finished.means["mimic"]
    assert sorted(values[_rows(finished, chosen["highest"])]) == sorted(np.sort(values)[-10:])
    assert values[_rows(finished, chosen["lowest"])].tolist() == np.sort(values)[:10].tolist()


def test_gallery_at_the_cut_shows_the_right_side(finished):
    chosen = _chosen(finished)
    barely, almost = (_rows(finished, chosen[name]) for name in ("barely_kept", "barely_dropped"))
    p_keep = finished.means[P_KEEP]
    assert finished.kept[barely].all()
    assert not finished.kept[almost].any()
    assert p_keep[barely].max() == p_keep[finished.kept].min()
    assert p_keep[almost].min() == p_keep[~finished.kept].max()


def test_gallery_disagreement_is_between_mimic_and_clip_score(finished):
    chosen = _chosen(finished)
    for one in chosen["above_rival"]:
        assert one.percentiles["mimic"] > one.percentiles["clip_score"] + 0.5
    for one in chosen["above_lead"]:
        assert one.percentiles["clip_score"] > one.percentiles["mimic"] + 0.5


def test_gallery_shows_scores_place_and_fate_of_the_sample(finished):
    for one in _chosen(finished)["highest"]:
        (row,) = _rows(finished, [one])
        assert (one.shard, one.offset) == (finished.shard[row], finished.offset[row])
        assert (one.reason == "kept") == finished.kept[row]
        expected = {n: float(v[row]) for n, v in finished.means.items() if not np.isnan(v[row])}
        assert {n: round(v, 5) for n, v in one.means.items()} == {n: round(v, 5) for n, v in expected.items()}


def test_gallery_is_the_same_for_any_cut_into_buckets(finished, tmp_path):
    one, four = _chosen(make_run(tmp_path, bits=0)), _chosen(finished)
    assert {n: [s.uid for s in group] for n, group in one.items()} == {
        n: [s.uid for s in group] for n, group in four.items()
    }


def test_gallery_larger_than_the_pool_shows_each_sample_once(tmp_path):
    run = make_run(tmp_path, 12)
    assert len({one.uid for one in _chosen(run, 200)["highest"]}) == 12


def test_wishes_of_one_selector_have_no_disagreement():
    assert [wish.name for wish in wishes(["table", P_KEEP], 4)] == [
        "highest",
        "lowest",
        "barely_kept",
        "barely_dropped",
    ]


def test_wishes_lead_is_mimic_wherever_it_stands():
    assert wishes(["clip_score", "mimic", P_KEEP], 4)[0].first == "mimic"


def test_wishes_of_empty_gallery_are_none():
    assert wishes(["mimic", P_KEEP], 0) == []
