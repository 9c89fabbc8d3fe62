"""Both S3 servers, the proxy before the real one, and an empty place in each."""

from collections.abc import Iterator

import pytest

from pipeline.storage import Storage
from tests.servers.fault_proxy import FaultProxy
from tests.servers.fixtures import Store, moto_store, rgw_store

__all__ = ["moto_store", "rgw_store"]

BUCKET = "pool-bucket"


@pytest.fixture(params=["moto", "rgw"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each S3 server in turn, with a bucket, its credentials in the environment."""
    found: Store = request.getfixturevalue(f"{request.param}_store")
    found.make_bucket(BUCKET)
    with found.signed():
        yield found


@pytest.fixture
def proxy(store: Store) -> Iterator[FaultProxy]:
    """A proxy before the server that passes everything until it is told otherwise."""
    with FaultProxy(store.port) as running:
        yield running


@pytest.fixture
def place(store: Store, request: pytest.FixtureRequest) -> str:
    """An S3 prefix of the test's own."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return f"s3://{BUCKET}/{name}"


@pytest.fixture
def through(proxy: FaultProxy) -> Storage:
    """A storage that reaches the server through the proxy."""
    return storage_through(proxy)


def storage_through(proxy: FaultProxy, **settings: object) -> Storage:
    """A storage behind a proxy with short time-outs; settings as in `StorageConfig`."""
    from pipeline.storage import StorageConfig

    values = {
        "endpoint_url": proxy.endpoint,
        "connect_timeout": 2.0,
        "read_timeout": 5.0,
        "max_attempts": 5,
        **settings,
    }
    return Storage(StorageConfig.model_validate(values))
