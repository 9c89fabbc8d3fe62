"""Both S3 servers, a proxy before each, and an empty place in each."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pipeline import storage as storage_module
from pipeline import storage_s3_requests
from pipeline.storage import Storage, StorageConfig
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


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow one another at once; that their waits grow is tested by itself."""
    monkeypatch.setattr(storage_s3_requests, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture(scope="session")
def proxies() -> Iterator[Callable[[Store], FaultProxy]]:
    """One proxy a server for the whole session: a client that finds it again need not be made again."""
    running: dict[str, FaultProxy] = {}
    with ExitStack() as stack:

        def before(server: Store) -> FaultProxy:
            if server.name not in running:
                running[server.name] = stack.enter_context(FaultProxy(server.port))
            return running[server.name]

        yield before


@pytest.fixture
def proxy(store: Store, proxies: Callable[[Store], FaultProxy]) -> Iterator[FaultProxy]:
    """A proxy before the server that passes everything until it is told otherwise."""
    running = proxies(store)
    running.calm()
    yield running
    running.calm()


def forget_stores() -> None:
    """What this process knows of stores (connections, credentials, conditions) is to be found out anew."""
    storage_module._backend.cache_clear()


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
    values = {
        "endpoint_url": proxy.endpoint,
        "connect_timeout": 2.0,
        "read_timeout": 5.0,
        "max_attempts": 5,
        **settings,
    }
    return Storage(StorageConfig.model_validate(values))
