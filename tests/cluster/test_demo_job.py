"""The demo as a cluster's users run it: `ray job submit`, pool and output in a bucket, followed to its findings."""

import json
import os
import sys
from pathlib import Path

import pytest

from pipeline.progress import Reporter
from pipeline.storage import join
from pipeline.verify import verify
from stages.pool.demo import make_pool
from tests.cluster.submitting import Submitter
from tests.crash.nodes import MAP, RANK, nodes
from tests.crash.scenes import ROOT
from tests.long_runs import long_runs
from tests.object_store.short_run import upload
from tests.servers.fixtures import Store

pytestmark = long_runs("make cluster-test", seconds=2400)
_POOL, _OUTPUT = "s3://demo/pool", "s3://demo/runs/demo"
_PLACES = {
    "output": _OUTPUT,
    "pool.path": f"{_POOL}/shards",
    "pool.metadata": f"{_POOL}/metadata",
    "reference.trusted": f"{_POOL}/trusted.npy",
    "evaluate.data": f"{_POOL}/eval",
    "report.truth": f"{_POOL}/truth.parquet",
}
_SAMPLES = 8192


def test_demo_submitted_by_ray_accounts_for_each_sample_and_tells_good_from_bad(
    rgw_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pool(str(tmp_path / "pool"), num_samples=_SAMPLES, seed=0, reporter=Reporter())
    rgw_store.make_bucket("demo")
    with rgw_store.signed():
        upload(tmp_path / "pool", _POOL, rgw_store.storage())
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        **rgw_store.environment,
        "AWS_ENDPOINT_URL": rgw_store.endpoint,
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "work").mkdir()
    with nodes(workers=2, cpus=1, dashboard=True) as made:
        submitter = Submitter(tmp_path / "work", made.dashboard)
        words = [f"{key}={value}" for key, value in _PLACES.items()]
        submitted = submitter.start_with_ray("demo.yaml", *words, working_dir=ROOT)
        submitted.wait_until(lambda: len(made.hosts_of(RANK)) == 2, "ranks on two nodes")
        assert not made.head_runs(RANK)
        assert not made.head_runs(MAP)
        code, shown = submitted.end()
    assert code == 0, shown
    assert f"report  {_OUTPUT}/report/index.html" in shown
    with rgw_store.signed():
        assert verify(_OUTPUT, rgw_store.storage(), Reporter()).differences == []
        summary = json.loads(rgw_store.storage().read_bytes(join(_OUTPUT, "report/summary.json")))
    pool, select, truth = summary["pool"], summary["select"], summary["truth"]
    assert pool["samples"] == pool["usable"] + pool["quarantined"]
    assert pool["usable"] == select["kept"] + sum(select["dropped"].values())
    assert select["kept"] == summary["shards"]["samples"] == pool["usable"] // 2
    assert summary["reference"]["verdict"] == "informative"
    assert truth["mimic_auc"] > 0.8  # chance is 0.5
    assert truth["kept_clean_share"] > truth["pool_clean_share"] + 0.15
