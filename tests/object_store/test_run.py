"""A whole run on an object store, its configuration there as well, ends in the digests of one on disk."""

import hashlib
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.lease import SWITCH
from pipeline.progress import Reporter
from pipeline.storage import Storage, join, relative
from pipeline.verify import verify
from pipeline.yaml_config import read_config_text
from stages.pool.demo import make_pool
from tests.end_to_end import runs
from tests.end_to_end.runs import TINY, digests
from tests.long_runs import long_runs
from tests.object_store.short_run import upload
from tests.servers.fixtures import Store

pytestmark = long_runs("make test-object-store", seconds=5400)

BUCKET = "whole-run"
gradsieve = partial(runs.gradsieve, timeout=1800)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pool and a finished run."""
    folder = tmp_path_factory.mktemp("on-disk")
    make_pool(str(folder / "pool"), num_samples=512, seed=0, reporter=Reporter())
    result = gradsieve("run", str(TINY), "evaluate=off", "cluster.executor=in_process", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def uploaded(rgw_store: Store, on_disk: Path) -> Store:
    """The store with pool and configuration in a bucket."""
    rgw_store.make_bucket(BUCKET)
    with rgw_store.signed():
        storage = rgw_store.storage()
        upload(on_disk / "pool", f"s3://{BUCKET}/pool", storage)
        text = (
            TINY.read_text()
            .replace(" pool/", f" s3://{BUCKET}/pool/")
            .replace("{data: pool", f"{{data: s3://{BUCKET}/pool")
        )
        storage.put(f"s3://{BUCKET}/tiny.yaml", text.encode())
    return rgw_store


@pytest.fixture
def reached(uploaded: Store) -> Iterator[Store]:
    """The store as the environment of a run names it."""
    with uploaded.signed(AWS_ENDPOINT_URL=uploaded.endpoint):
        yield uploaded


@pytest.fixture
def logs() -> Iterator[Path]:
    """A folder for Ray with a short name: paths of the sockets below it end at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize("executor", ["in_process", "ray"])
def test_run_on_an_object_store_ends_in_the_digests_of_one_on_disk(
    executor: str, reached: Store, on_disk: Path, tmp_path: Path, logs: Path
) -> None:
    output = f"s3://{BUCKET}/runs/{executor}"
    overrides = (f"output={output}", "evaluate=off", f"cluster.executor={executor}")
    work = tmp_path / "work"
    work.mkdir()
    result = gradsieve("run", f"s3://{BUCKET}/tiny.yaml", *overrides, cwd=work, RAY_TMPDIR=str(logs))
    assert result.returncode == 0, result.stderr
    again = gradsieve("run", f"s3://{BUCKET}/tiny.yaml", *overrides, cwd=work)
    assert "everything is done already" in again.stderr
    for deliverable in ("subset", "shards"):
        found = _digests(reached.storage(), join(output, deliverable))
        assert found == digests(on_disk / "runs/tiny" / deliverable)
    _looks_the_same_from_outside(output, reached, on_disk, work)
    assert list(work.iterdir()) == []  # nothing of the run was left on disk
    secret = reached.environment["AWS_SECRET_ACCESS_KEY"]
    assert secret not in result.stdout + result.stderr
    written = [path for path in logs.rglob("*") if path.is_file()]
    assert bool(written) == (executor == "ray")
    assert [path for path in written if secret.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("executors", [("in_process", "in_process"), ("in_process", "ray")])
def test_two_runs_at_once_without_a_lease_end_in_one_consistent_result(
    executors: tuple[str, str], reached: Store, on_disk: Path, tmp_path: Path
) -> None:
    output = f"s3://{BUCKET}/runs/twice-{executors[1]}"
    common = (f"s3://{BUCKET}/tiny.yaml", f"output={output}", "evaluate=off", "train.checkpoint_every=5")

    def run(executor: str) -> subprocess.CompletedProcess[str]:
        return gradsieve("run", *common, f"cluster.executor={executor}", cwd=tmp_path, **{SWITCH: "off"})

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(run, executors))
    assert {ended.returncode for ended in both} <= {0, 1}, [ended.stderr for ended in both]
    assert "Traceback" not in both[0].stderr + both[1].stderr
    again = run("in_process")
    assert again.returncode == 0, again.stderr
    for deliverable in ("subset", "shards"):
        found = _digests(reached.storage(), join(output, deliverable))
        assert found == digests(on_disk / "runs/tiny" / deliverable)
    verdict = verify(output, reached.storage(), Reporter())
    assert verdict.differences == []


def test_demo_on_an_object_store_ends_in_the_digests_of_one_on_disk(rgw_store: Store, tmp_path: Path) -> None:
    """The demo as it is shipped, with its pool, its configuration and all that it makes in a bucket."""
    made = gradsieve("pool", "make", "data/demo", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    on_disk = gradsieve("run", "demo.yaml", cwd=tmp_path)
    assert on_disk.returncode == 0, on_disk.stderr
    rgw_store.make_bucket("demo")
    with rgw_store.signed(AWS_ENDPOINT_URL=rgw_store.endpoint):
        storage = rgw_store.storage()
        upload(tmp_path / "data", "s3://demo/data", storage)
        text = read_config_text("demo.yaml", storage)
        storage.put("s3://demo/demo.yaml", text.replace(" data/demo/", " s3://demo/data/demo/").encode())
        in_bucket = gradsieve("run", "s3://demo/demo.yaml", "output=s3://demo/runs/demo", cwd=tmp_path)
        assert in_bucket.returncode == 0, in_bucket.stderr
        for deliverable in ("subset", "shards", "evaluation"):
            found = _digests(storage, f"s3://demo/runs/demo/{deliverable}")
            assert found == digests(tmp_path / "runs/demo" / deliverable)
        assert verify("s3://demo/runs/demo", storage, Reporter()).differences == []


def _looks_the_same_from_outside(output: str, store: Store, on_disk: Path, cwd: Path) -> None:
    hi, lo = np.load(on_disk / "runs/tiny/subset/sample_ids.npy")[0]
    reach = ("--endpoint-url", store.endpoint)
    for command in (("status", output), ("explain", output, f"{hi:016x}{lo:016x}"), ("verify", output)):
        shown = gradsieve(*command, *reach, cwd=cwd)
        assert shown.returncode == 0, shown.stdout + shown.stderr


def _digests(storage: Storage, root: str) -> dict[str, str]:
    return {
        relative(root, stat.uri): hashlib.sha256(storage.read_bytes(stat.uri)).hexdigest()
        for stat in storage.list(root)
    }
