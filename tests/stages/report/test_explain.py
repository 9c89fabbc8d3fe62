import numpy as np
import pytest

from pipeline.errors import UserError
from stages.report.explain import explain
from stages.report.view import P_KEEP
from tests.stages.report.synthetic import make_run


def test_explain_kept_sample_tells_its_whole_story(finished):
    row = int(np.flatnonzero(finished.kept)[7])
    found = explain(finished.inputs, finished.uids[row])
    assert (found.reason, found.quarantined) == ("kept", None)
    assert found.place.offset == finished.offset[row]
    assert found.place.shard == f"{finished.shard[row]:08d}.tar"
    assert found.place.member.endswith(".jpg")
    assert set(found.votes) == {"mimic__0", "loss__0", "clip_score__0"}
    assert found.decision[P_KEEP] == pytest.approx(finished.means[P_KEEP][row])


def test_explain_scores_are_those_of_each_visit_with_percentile(finished):
    row = 11
    found = explain(finished.inputs, finished.uids[row])
    mimic = [score for score in found.scores if score.selector == "mimic"]
    assert [score.visit for score in mimic] == [0, 1, 2]
    assert np.mean([score.rank for score in mimic]) == pytest.approx(finished.means["mimic"][row], abs=1e-6)
    parts = list(finished.inputs["scores/mimic"].tables("bucket-", ["visit", "score"]))
    for score in mimic:
        every = np.concatenate([p["score"].to_numpy()[p["visit"].to_numpy() == score.visit] for p in parts])
        expected = ((every < score.score).sum() + (every == score.score).sum() / 2) / len(every)
        assert score.percentile == pytest.approx(expected)


def test_explain_sample_without_a_score_of_a_selector_lists_none(finished):
    row = int(np.flatnonzero(np.isnan(finished.means["clip_score"]))[0])
    found = explain(finished.inputs, finished.uids[row])
    assert {score.selector for score in found.scores} == {"mimic", "loss"}


@pytest.mark.parametrize("bits", [0, 2])
def test_explain_output_shard_follows_the_order_of_the_pool(finished, tmp_path, bits):
    run = finished if bits == 2 else make_run(tmp_path, bits=bits)
    kept = np.flatnonzero(run.kept)
    in_order = kept[np.lexsort((run.offset[kept], run.shard[kept]))]
    places = [
        (part, place, len(rows)) for part, rows in enumerate(np.array_split(in_order, 4)) for place in range(len(rows))
    ]
    for position in (0, 44, 45, 90, len(in_order) - 1):
        shard, place, size = places[position]
        found = explain(run.inputs, run.uids[in_order[position]])
        assert found.output_shard == f"{shard:08d}.tar, sample {place + 1} of {size}"


def test_explain_dropped_sample_has_a_reason_and_no_output_shard(finished):
    row = int(np.flatnonzero(~finished.kept)[0])
    found = explain(finished.inputs, finished.uids[row])
    assert found.reason in finished.inputs["subset"].summary["dropped"]
    assert found.output_shard is None


def test_explain_quarantined_uid_gives_reason_and_place(finished):
    found = explain(finished.inputs, "F" * 32)
    assert found.quarantined == ("truncated_image", "image file is truncated (12 bytes not processed)")
    assert (found.place.shard, found.place.offset) == ("00000001.tar", 512)


def test_explain_short_upper_case_uid_is_normalised(finished):
    assert explain(finished.inputs, "1").uid == "0" * 31 + "1"
    uid = finished.uids[3]
    assert explain(finished.inputs, f" {uid.upper()} ").uid == uid


def test_explain_unknown_uid_names_the_nearest(finished):
    value = int(finished.uids[100], 16)
    with pytest.raises(UserError, match=finished.uids[100]) as caught:
        explain(finished.inputs, f"{value + 1:032x}")
    assert "600 usable and 3 quarantined" in str(caught.value)


@pytest.mark.parametrize("uid", ["", "xyz", "0" * 33])
def test_explain_of_what_is_no_uid_is_refused(finished, uid):
    with pytest.raises(UserError, match="not a uid"):
        explain(finished.inputs, uid)


def test_explain_unfinished_run_tells_what_is_there(finished):
    artifacts = {name: finished.inputs[name] for name in ("pool", "scores/mimic")}
    found = explain(artifacts, finished.uids[0])
    assert len(found.scores) == 3
    assert (found.reason, dict(found.votes), dict(found.decision)) == (None, {}, {})


def test_explain_before_the_pool_is_indexed_is_refused():
    with pytest.raises(UserError, match="no pool index"):
        explain({}, "1")
