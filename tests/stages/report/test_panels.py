import re

import numpy as np

from pipeline.engine import Engine
from pipeline.engine_config import ClusterConfig
from pipeline.progress import Reporter
from stages.report import panels
from stages.report.bins import BinCounts
from stages.report.survey import Tally, survey
from tests.stages.report.test_auc import _pool


def _survey(finished):
    return survey(Engine(ClusterConfig(executor="in_process"), Reporter()), _pool(finished))


def test_spreads_show_each_visit_and_gather_single_passes(finished):
    found = panels.spreads(_survey(finished), has_truth=True)
    assert [list(spread.names) for spread in found] == [["mimic"], ["loss"], ["clip_score", "p_keep"]]
    assert [len(spread.panels) for spread in found] == [3, 3, 2]
    assert found[0].panels[0].title == "mimic, visit 1 of 3"


def test_spreads_bars_add_up_to_the_scores(finished):
    for spread in panels.spreads(_survey(finished), has_truth=True)[:2]:
        for panel in spread.panels:
            counts = re.findall(r"<title>[^:]+: ([\d,]+) from", panel.chart)
            assert sum(int(count.replace(",", "")) for count in counts) == 600


def test_spreads_of_many_visits_leave_some_out_and_say_so(finished):
    found = _survey(finished)
    many = {("mimic", visit): found.histograms["mimic", 0] for visit in range(20)}
    tally = Tally({"mimic": found.tally.means["mimic"]}, {}, found.tally.clean)
    (spread,) = panels.spreads(type(found)(tally, many), has_truth=False)
    assert (len(spread.panels), spread.left_out) == (panels.MAX_VISITS, 14)
    assert spread.panels[0].title == "mimic, visit 1 of 20"
    assert spread.panels[-1].title == "mimic, visit 20 of 20"


def test_deciles_of_a_cut_at_seven_tenths_are_a_step():
    values = np.linspace(0.01, 1, 10_000).astype(np.float32)
    kept = values > np.quantile(values, 0.7)
    bins = BinCounts.of(values, kept * 3, 6)
    (panel,) = panels.deciles(Tally({"mimic": bins}, {}, np.zeros((2, 2), np.int64)), has_truth=False)
    assert "0%, 0%, 0%, 0%, 0%, 0%, " in panel.chart
    assert panel.chart.count("100.0% kept") == 2  # the third one is shared with the bin at the cut


def test_deciles_of_too_few_samples_are_not_shown():
    bins = BinCounts.of(np.ones(5, np.float32), np.zeros(5, int), 6)
    assert panels.deciles(Tally({"x": bins}, {}, np.zeros((2, 2), np.int64)), has_truth=False) == []


def test_curves_show_all_of_the_scored_training_and_losses_of_others(finished):
    trainings = {name: finished.inputs[f"training/{name}"] for name in ("mimic", "base")}
    titles = [panel.title for panel in panels.curves(trainings, None)]
    assert titles[0] == "mimic: contrastive loss"
    assert "mimic: scores in a batch" in titles
    assert [title for title in titles if title.startswith("base")] == ["base: contrastive loss"]


def test_curves_by_epoch_show_the_main_metric_only(finished):
    results = [
        {"model": "m", "epoch": epoch, "dataset": "d", "metric": metric, "value": 0.5}
        for epoch in (0, 1, None)
        for metric in ("acc1", "acc5")
    ]
    evaluation = {"summary": {"data_sets": {"d": {"main_metric": "acc1"}}}, "results": results}
    (panel,) = panels.curves({}, evaluation)
    assert panel.title == "zero-shot accuracy on d"
    assert panel.chart.count("<circle") == 2
