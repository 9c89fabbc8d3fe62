"""The same pool on disk and in an S3 store."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.graph import list_external
from pipeline.reuse import Entries
from pipeline.stage import StageContext
from pipeline.storage import Storage, StorageConfig
from stages.pool.config import PoolConfig
from stages.pool.stage import PoolStage
from tests.artifacts import commit, context
from tests.stages.pool.pools import plain_pool, write_metadata


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    import boto3

    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="pools")
    yield Storage(StorageConfig(endpoint_url=endpoint, max_attempts=2))
    server.stop()


def test_run_on_an_object_store_gives_the_same_content(tmp_path: Path, bucket: Storage) -> None:
    pairs = plain_pool(tmp_path / "shards")
    write_metadata(tmp_path / "meta", "a.parquet", [item.uid for item in pairs], score=np.arange(48.0))
    for path in sorted(tmp_path.rglob("*.*")):
        bucket.put(f"s3://pools/{path.relative_to(tmp_path)}", path.read_bytes())
    contents = []
    for root in (str(tmp_path), "s3://pools"):
        stage = PoolStage(PoolConfig(path=f"{root}/shards", metadata=f"{root}/meta", bucket_rows=20))
        files = {role: list_external(found, bucket) for role, found in stage.external().items()}
        made: StageContext = replace(
            context(tmp_path / "out", external=files),
            storage=bucket,
            output=ArtifactWriter(f"{root}/out", bucket),
            entries={kind: Entries.of(f"{root}/store", kind, bucket) for kind in stage.keeps},
        )
        contents.append(commit(Path(tmp_path / "out"), "pool", stage.run(made), bucket).manifest.content)
    assert contents[0] == contents[1]
