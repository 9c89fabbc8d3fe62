import io

import numpy as np
import pytest
from rich.console import Console

from pipeline.errors import UserError
from pipeline.explain import explain_view
from tests.stages.report.synthetic import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), 120, bits=1)


def _text(view):
    sink = io.StringIO()
    Console(file=sink, width=100).print(view)
    return sink.getvalue()


def test_explain_view_of_kept_sample_shows_place_scores_votes_and_shard(run):
    row = int(np.flatnonzero(run.kept)[0])
    text = _text(explain_view(run.inputs, run.uids[row]))
    assert f"{run.uids[row]}  kept" in text
    assert f"at offset {run.offset[row]:,}" in text
    assert f"{run.shard[row]:08d}.tar" in text
    assert "output shard" in text
    assert text.count("mimic") == 4  # three visits and a vote
    assert "keep" in text


def test_explain_view_of_dropped_sample_shows_the_reason(run):
    row = int(np.flatnonzero(~run.kept)[0])
    text = _text(explain_view(run.inputs, run.uids[row]))
    assert "dropped: " in text
    assert "output shard" not in text


def test_explain_view_of_quarantined_sample_shows_reason_and_detail(run):
    text = _text(explain_view(run.inputs, "f" * 32))
    assert "quarantined: truncated_image" in text
    assert "12 bytes not processed" in text


def test_explain_view_of_undecided_sample_says_so(run):
    assert "not decided yet" in _text(explain_view({"pool": run.inputs["pool"]}, run.uids[0]))


def test_explain_view_takes_no_text_of_the_pool_as_markup(run, monkeypatch):
    from stages.report import explain

    monkeypatch.setattr(explain, "_paths", lambda _: dict.fromkeys(range(9), "[red]x[/red].tar"))
    assert "[red]x[/red].tar" in _text(explain_view(run.inputs, run.uids[0]))


def test_explain_view_leaves_out_columns_without_values(run):
    text = _text(explain_view(run.inputs, run.uids[0]))
    assert "weight" not in text
    assert "in batch" in text


def test_explain_view_of_unknown_uid_is_a_user_error(run):
    with pytest.raises(UserError, match="no such sample"):
        explain_view(run.inputs, "abc")
