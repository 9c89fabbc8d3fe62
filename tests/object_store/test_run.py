"""A whole run on an object store, its configuration there as well, ends in the digests of one on disk."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.progress import Reporter
from pipeline.storage import Storage, join, relative
from stages.pool.demo import make_pool
from tests.end_to_end.runs import TINY, digests, gradsieve, run_tiny
from tests.servers.fixtures import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif("GRADSIEVE_STORE_RUNS" not in os.environ, reason="minutes each: `make test-object-store`"),
]

BUCKET = "whole-run"


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pool and a finished run."""
    folder = tmp_path_factory.mktemp("on-disk")
    make_pool(str(folder / "pool"), num_samples=512, seed=0, reporter=Reporter())
    result = run_tiny(folder, "evaluate=off", "cluster.executor=in_process")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def uploaded(rgw_store: Store, on_disk: Path) -> Store:
    """The store with pool and configuration in a bucket."""
    rgw_store.make_bucket(BUCKET)
    with rgw_store.signed():
        storage = rgw_store.storage()
        for path in sorted((on_disk / "pool").rglob("*")):
            if path.is_file():
                storage.put_file(f"s3://{BUCKET}/{path.relative_to(on_disk)}", path)
        text = (
            TINY.read_text()
            .replace(" pool/", f" s3://{BUCKET}/pool/")
            .replace("{data: pool", f"{{data: s3://{BUCKET}/pool")
        )
        storage.put(f"s3://{BUCKET}/tiny.yaml", text.encode())
    return rgw_store


@pytest.mark.parametrize("executor", ["in_process", "ray"])
def test_run_on_an_object_store_ends_in_the_digests_of_one_on_disk(
    executor: str, uploaded: Store, on_disk: Path, tmp_path: Path
) -> None:
    output = f"s3://{BUCKET}/runs/{executor}"
    overrides = (f"output={output}", "evaluate=off", f"cluster.executor={executor}")
    with uploaded.signed():
        os.environ["AWS_ENDPOINT_URL"] = uploaded.endpoint
        result = gradsieve("run", f"s3://{BUCKET}/tiny.yaml", *overrides, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        again = gradsieve("run", f"s3://{BUCKET}/tiny.yaml", *overrides, cwd=tmp_path)
        assert "everything is done already" in again.stderr
        del os.environ["AWS_ENDPOINT_URL"]
        storage = uploaded.storage()
        for deliverable in ("subset", "shards"):
            found = _digests(storage, join(output, deliverable))
            assert found == digests(on_disk / "runs/tiny" / deliverable)
        _looks_the_same_from_outside(output, uploaded, on_disk, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []  # nothing of the run was left on disk
    assert uploaded.environment["AWS_SECRET_ACCESS_KEY"] not in result.stdout + result.stderr


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
