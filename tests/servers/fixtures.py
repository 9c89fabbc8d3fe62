"""What tests ask for: stores that are there for the whole session, each with a way to reach it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from s3fs import S3FileSystem

from pipeline.storage import Storage, StorageConfig
from tests.servers.moto_server import moto_server
from tests.servers.rgw import NO_RGW, PACKAGES, Rgw, missing_binaries


@dataclass(frozen=True)
class Store:
    """A running S3 server and what signs for it."""

    name: str
    endpoint: str
    environment: dict[str, str]
    buckets: set[str] = field(default_factory=set)
    add_key: Callable[[str, str], None] = field(default=lambda access, secret: None, repr=False)
    """Give the user another access key with its secret."""

    @property
    def port(self) -> int:
        """Port of the loopback."""
        port = urlsplit(self.endpoint).port
        assert port is not None
        return port

    def storage(self, **settings: object) -> Storage:
        """A handle; settings as in `StorageConfig`."""
        return Storage(StorageConfig.model_validate({"endpoint_url": self.endpoint, **settings}))

    def make_bucket(self, name: str) -> None:
        """Make a bucket if it is not there."""
        if name in self.buckets:
            return
        self.buckets.add(name)
        with self.signed():
            file_system = S3FileSystem(endpoint_url=self.endpoint, skip_instance_cache=True)
            if not file_system.exists(name):
                file_system.mkdir(name)

    @contextmanager
    def signed(self, **more: str) -> Iterator[None]:
        """The environment holds this store's credentials and no others, and more of AWS's variables if wanted."""
        saved = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        for name in saved:
            del os.environ[name]
        os.environ.update({**self.environment, **more})
        try:
            yield
        finally:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                del os.environ[name]
            os.environ.update(saved)


def _credentials(access: str, secret: str) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def moto_store() -> Iterator[Store]:
    """moto, on for the session."""
    with moto_server() as endpoint:
        yield Store("moto", endpoint, _credentials("moto-access", "moto-secret"))


@pytest.fixture(scope="session")
def rgw_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Ceph RGW, on for the session; skipped where it is not installed."""
    if missing := missing_binaries():
        pytest.skip(f"{NO_RGW} (not found: {', '.join(missing)}); Debian: {PACKAGES}")
    state = tmp_path_factory.mktemp("rgw")
    server = Rgw(Path(state))
    try:
        server.start()
        keys = _credentials(server.access_key, server.secret_key)
        yield Store("rgw", server.endpoint, keys, add_key=server.add_key)
    finally:
        server.stop()
