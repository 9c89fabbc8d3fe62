import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.errors import UserError
from pipeline.rates import RatesConfig
from pipeline.stage import Size
from pipeline.storage import Storage
from stages.report.findings import findings
from stages.report.stage import worst_shards
from tests.artifacts import listed
from tests.stages.report.synthetic import HOSTILE, make_run


def _report(run, root, *, truth=True, engine=None, config=None, **without):
    context = run.context(root, truth=truth, **without)
    if engine is not None:
        context = type(context)(**{**vars(context), "engine": engine})
    run.stage(**(config or {"gallery": 8})).run(context)
    return (root / "index.html").read_text(), json.loads((root / "summary.json").read_text())


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    return _report(finished, tmp_path_factory.mktemp("report"))


class _Outline(HTMLParser):
    """Tags with their attributes, in order; complains about tags left open."""

    void = frozenset({"meta", "img", "br"})

    def __init__(self, page):
        super().__init__()
        self.tags, self._open = [], []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_summary_samples_add_up(report, finished):
    _, summary = report
    pool, select = summary["pool"], summary["select"]
    assert pool["samples"] == select["kept"] + sum(select["dropped"].values()) + pool["quarantined"]
    assert select["kept"] == finished.kept.sum()
    assert pool["quarantine_reasons"] == {"truncated_image": 2, "no_caption": 1}
    assert pool["missing"] == 11


def test_summary_truth_equals_sklearn_and_brute_force(report, finished):
    truth = report[1]["truth"]
    judged = ~finished.trusted
    for name, values in finished.means.items():
        chosen = judged & ~np.isnan(values)
        expected = roc_auc_score(~finished.mismatched[chosen], values[chosen])
        assert truth[f"{name}_auc"] == pytest.approx(expected, abs=1e-12)
    assert truth["pool_clean_share"] == finished.clean[judged].mean()
    assert truth["kept_clean_share"] == finished.clean[judged & finished.kept].mean()


def test_summary_coverage_and_training_figures(report):
    _, summary = report
    assert summary["scores"]["coverage"] == 1.0
    assert summary["scores"]["by_selector"]["clip_score"]["coverage"] == 0.9
    assert summary["train"]["steps"] == 120
    assert summary["train"]["phases"]["base"]["method"] == "uniform"
    assert summary["reference"]["verdict"] == "informative"
    assert summary["label_model"]["final_loss"] == 0.0123
    assert summary["seconds"]["training/mimic"] == 74.0


def test_summary_gives_the_five_findings_on_the_page(report):
    page, summary = report
    lines = findings(summary)
    assert len(lines) == 5
    items = re.search(r'<ol class="findings">(.*?)</ol>', page, re.DOTALL)[1]
    assert re.findall(r"<li>(.*?)</li>", items) == lines


def test_page_is_well_formed_and_self_contained(report):
    page, _ = report
    tags = _Outline(page).tags
    assert not {"script", "iframe", "link", "object", "form"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_page_escapes_what_the_pool_says(finished, tmp_path):
    page, _ = _report(finished, tmp_path, config={"gallery": 200})
    assert "<script>" not in page
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(" in page


def test_page_pictures_have_texts_and_sections_have_headings(report):
    tags = _Outline(report[0]).tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) >= 30
    assert all(attributes["alt"] for attributes in images)
    charts = [attributes for tag, attributes in tags if tag == "svg"]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)
    assert [tag for tag, _ in tags].count("h1") == 1
    anchors = {attributes["href"][1:] for tag, attributes in tags if tag == "a"}
    assert anchors <= {attributes.get("id") for _, attributes in tags}


def test_page_shows_every_reason_and_the_worst_shard(report):
    page, summary = report
    for reason, number in summary["select"]["dropped"].items():
        assert reason in page
        assert f">{number:,}<" in page
    assert "00000001.tar" in page


def test_report_without_truth_claims_no_quality(finished, tmp_path):
    page, summary = _report(finished, tmp_path, truth=False)
    assert "truth" not in summary
    assert "Against the truth" not in page
    assert "mismatched" not in re.sub(r"(?s)<style>.*?</style>", "", page)


def test_report_without_optional_artifacts_is_made(finished, tmp_path):
    page, summary = _report(finished, tmp_path, drop=("shards", "evaluation", "training/base"))
    assert summary["evaluation"] is None
    assert summary["shards"] is None
    assert "No model was evaluated." in page


def test_report_without_gallery_has_no_picture(finished, tmp_path):
    page, _ = _report(finished, tmp_path, config={"gallery": 0})
    assert "<img" not in page
    assert "No gallery was asked for." in page


def test_report_bytes_do_not_depend_on_the_cut_into_buckets(report, tmp_path):
    page, summary = _report(make_run(tmp_path / "run", bits=0), tmp_path / "report")
    assert summary == report[1]
    assert page == report[0]


@pytest.mark.ray
def test_report_made_by_ray_equals_that_made_in_process(report, finished, tmp_path, ray_engine):
    assert _report(finished, tmp_path, engine=ray_engine) == report


def test_report_title_is_escaped(finished, tmp_path):
    page, _ = _report(finished, tmp_path, config={"title": "a <b> & c", "gallery": 0})
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in page


def test_preflight_refuses_truth_of_another_layout(finished, tmp_path):
    pq.write_table(pa.table({"uid": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="lacks columns"):
        finished.stage().preflight({"truth": listed(tmp_path / "t.parquet")}, Storage())


def test_external_truth_is_declared_only_where_it_is_known(finished):
    assert set(finished.stage().external()) == {"tars"}
    external = finished.stage(truth="truth.parquet").external()
    assert external["truth"].identity
    assert not external["tars"].identity


def test_config_place_of_truth_is_no_part_of_the_identity(finished):
    assert finished.stage(truth="a").config.identity() == finished.stage(truth="b").config.identity()
    assert finished.stage(gallery=1).config.identity() != finished.stage(gallery=2).config.identity()


def test_plan_memory_a_task_does_not_grow_with_the_pool(finished):
    def peak(rows):
        sizes = {"pool": Size(rows, 0), "scores/mimic": Size(5 * rows, 0)}
        return finished.stage().plan(sizes, RatesConfig().model_dump()).peak_task_bytes

    assert peak(1 << 30) == pytest.approx(peak(1 << 22), rel=0.1)


def test_worst_shards_are_sorted_and_counted(finished):
    first, second = worst_shards(finished.inputs["pool"])
    assert (first.path, first.quarantined) == ("00000001.tar", 2)
    assert dict(first.reasons) == {"truncated_image": 1, "no_caption": 1}
    assert (second.path, second.quarantined) == ("00000004.tar", 1)
    assert len(worst_shards(finished.inputs["pool"], 1)) == 1
