"""Metrics: declared once, emitted where Ray runs, silent elsewhere; what bars, stores and stages emit."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artifact import Counts
from pipeline.engine import Engine
from pipeline.metrics import METRICS, count, show
from pipeline.progress import Reporter
from pipeline.runner import _show_rows
from pipeline.storage import ConflictError, Storage
from tests.pipeline.emitted import Emitted, emitted

__all__ = ["emitted"]

ROOT = Path(__file__).parents[2]


def test_every_metric_has_a_name_prometheus_takes_a_description_and_its_own_labels() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
        assert not name.endswith("_total")  # Ray's own suffix
        assert metric.description
        # Names that Ray gives to labels of its own.
        assert not {"WorkerId", "NodeAddress", "SessionName", "JobId", "Component", "Version"} & set(metric.labels)
        assert len(set(metric.labels)) == len(metric.labels)


def test_series_have_rays_prefix_and_suffix() -> None:
    assert METRICS["samples"].series == "ray_gradsieve_samples_total"
    assert METRICS["loss"].series == "ray_gradsieve_loss"


def test_every_metric_that_is_declared_is_emitted_and_the_other_way_round() -> None:
    sources = [path for room in ("pipeline", "stages") for path in (ROOT / room).rglob("*.py")]
    called = re.compile(r"(?<![.\w])(count|show)\(\s*\"(\w+)\"")
    found = {(verb, name) for path in sources for verb, name in called.findall(path.read_text())}
    verbs = {"counter": "count", "gauge": "show"}
    assert found == {(verbs[metric.kind], name) for name, metric in METRICS.items()}


def test_wrong_label_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="loss: labels"):
        show("loss", 1.0, stage="x")
    with pytest.raises(KeyError):
        count("of_nothing")


def test_process_without_ray_emits_nothing_and_imports_no_ray() -> None:
    code = """
import sys
from pipeline.metrics import count
count("samples", 3, training="x")
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_half_imported_ray_is_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may be in the middle of importing it."""
    monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
    count("samples", 3, training="x")


@pytest.mark.ray
def test_ray_takes_every_metric(ray_engine: Engine) -> None:
    for metric in METRICS.values():
        labels = dict.fromkeys(metric.labels, "x")
        for value in (1.5, 0.0, float("nan")):
            if metric.kind == "counter":
                count(metric.name, value, **labels)
            else:
                show(metric.name, value, **labels)
    num_cpus, num_gpus = ray_engine.resources()
    assert (num_cpus, num_gpus) == (6, 0)


def test_bar_counts_what_is_done_and_tells_when_it_is_over(emitted: Emitted) -> None:
    with Reporter().bar("scan", 10, "shards") as bar:
        assert emitted.gauges["work_running", "scan"] == 1
        bar.advance(4)
        bar.set(9)
        bar.set(7)  # a resumed training begins anew
        bar.set(10)
    assert emitted.gauges["work_running", "scan"] == 0
    assert emitted.counters["work_done", "scan"] >= 10


def test_work_that_fails_runs_no_longer(emitted: Emitted) -> None:
    def fail() -> None:
        with Reporter().bar("scan", 10, "shards"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert emitted.gauges["work_running", "scan"] == 0


def test_rows_of_a_stage_are_shown_by_fate_and_add_up(emitted: Emitted) -> None:
    _show_rows("select", Counts(10, 5, {"rank": 3, "excluded": 1}, 1))
    fates = {key[2:]: rows for key, rows in emitted.gauges.items()}
    assert fates == {
        ("in", ""): 10, ("out", ""): 5, ("quarantined", ""): 1, ("dropped", "rank"): 3, ("dropped", "excluded"): 1,
    }  # fmt: skip
    assert fates.pop(("in", "")) == sum(fates.values())


def test_bytes_of_a_store_are_counted_by_operation(emitted: Emitted, tmp_path: Path) -> None:
    storage = Storage()
    uri, copy, swapped = (str(tmp_path / name) for name in ("a", "b", "c"))
    storage.put_once(uri, b"12345")
    assert storage.read_bytes(uri) == b"12345"
    assert storage.read_range(uri, 1, 2) == b"23"
    assert list(storage.read_ranges(uri, [(0, 1), (3, 2)])) == [b"1", b"45"]
    (tmp_path / "local").write_bytes(b"12345")
    storage.put_file(copy, tmp_path / "local")
    storage.compare_and_swap(swapped, None, b"123")
    assert storage.exists(copy)
    assert [Path(stat.uri).name for stat in storage.list(str(tmp_path))] == ["a", "b", "c"]
    storage.delete(copy)
    assert not storage.exists(copy)
    found = {key[1:]: amount for key, amount in emitted.counters.items() if key[0] == "store_bytes"}
    assert found == {("put", "local"): 10, ("read", "local"): 10, ("swap", "local"): 3}


def test_swap_that_lost_put_nothing(emitted: Emitted, tmp_path: Path) -> None:
    uri = str(tmp_path / "a")
    Storage().put(uri, b"1")
    before = dict(emitted.counters)
    with pytest.raises(ConflictError):
        Storage().compare_and_swap(uri, b"2", b"333")
    assert emitted.counters.get(("store_bytes", "swap", "local"), 0) == before.get(("store_bytes", "swap", "local"), 0)
