"""One request to an S3 store: bounded in time, tried again where that can help, checked against its length."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

from aiobotocore.httpsession import AIOHTTPSession
from fsspec.asyn import sync
from s3fs import S3FileSystem
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from pipeline.metrics import count
from pipeline.storage import StorageConfig
from pipeline.storage_s3_faults import STORE_ERRORS, ShortBodyError, is_transient, outcome, refuse_secret

_SLOWEST: Final = 1 << 20
"""Bytes a second that a transfer must reach on average beyond `call_timeout`."""
_AMAZON: Final = "https://s3.amazonaws.com"
_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
FIRST_WAIT_SECONDS = 0.25
"""Upper bound of the wait before the second attempt; it doubles with each further one."""
LONGEST_WAIT_SECONDS = 20.0
"""Where the doubling ends."""


class Source(Protocol):
    """Bytes to be put, which can be read anew at each attempt."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    def opened(self) -> AbstractContextManager[bytes | BinaryIO]:
        """The body of one attempt."""

    def part(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length)."""


@dataclass(frozen=True)
class BytesSource:
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.data)

    @contextmanager
    def opened(self) -> Iterator[bytes | BinaryIO]:
        """The bytes themselves."""
        yield self.data

    def part(self, offset: int, length: int) -> bytes:
        """A slice."""
        return self.data[offset : offset + length]


@dataclass(frozen=True)
class FileSource:
    """A local file, sent from disk and never held whole in memory."""

    path: Path

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.path.stat().st_size

    @contextmanager
    def opened(self) -> Iterator[bytes | BinaryIO]:
        """The open file."""
        with self.path.open("rb") as file:
            yield file

    def part(self, offset: int, length: int) -> bytes:
        """Bytes of the file."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


class Answer(NamedTuple):
    """A store's answer, its body read."""

    response: dict[str, Any]
    body: bytes


class Requests:
    """Sends requests; one connection pool a bucket, as buckets may live apart."""

    def __init__(self, config: StorageConfig) -> None:
        """Nothing is contacted until the first request."""
        self._config = config
        self._pid = os.getpid()
        self._file_systems: dict[str, S3FileSystem] = {}
        self._endpoints: dict[str, str] = {}

    def send(
        self,
        method: str,
        uri: str,
        *,
        source: Source | None = None,
        check: Callable[[Answer], None] | None = None,
        **arguments: Any,
    ) -> Answer:
        """Send one request, again after faults that pass.

        Args:
            method: name of the client's method, such as `get_object`.
            uri: the object; for requests about a bucket, the prefix.
            source: the body.
            check: raises ShortBodyError if the answer is not whole.
            arguments: the method's own; a `Key` of None is left out.

        Raises:
            FileNotFoundError, TakenError, BeyondEndError, UnsupportedError: outcomes that a caller may await.
            UserError: credentials, rights, bucket or endpoint are at fault.
            RunError: the store failed at each attempt.
        """
        bucket, key = split(uri)
        arguments = {"Bucket": bucket, "Key": key, **arguments}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        attempts = 0
        failure: Exception
        try:
            for attempt in self._retrying():
                with attempt:
                    attempts = attempt.retry_state.attempt_number
                    answer = self._attempt(bucket, method, arguments, source)
                    if check is not None:
                        check(answer)
                    return answer
            raise AssertionError("tenacity either returns or raises")
        except STORE_ERRORS as error:
            special = self._config.buckets.get(bucket)
            profile = (special and special.profile) or os.environ.get("AWS_PROFILE")
            failure = outcome(error, uri, attempts=attempts, endpoint=self._endpoint(bucket), profile=profile)
        finally:
            count("retries", attempts - 1, what="store")
        # Outside the handler: the store's own answer, which repeats signed headers, does not travel along.
        raise failure

    def _retrying(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_attempt(self._config.max_attempts) | stop_after_delay(self._config.call_timeout),
            wait=wait_random_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS),
            reraise=True,
        )

    def _attempt(self, bucket: str, method: str, arguments: dict[str, Any], source: Source | None) -> Answer:
        seconds = self._config.call_timeout
        if source is None:
            return self._run(bucket, method, arguments, seconds)
        with source.opened() as body:
            seconds += source.size / _SLOWEST
            return self._run(bucket, method, {**arguments, "Body": body}, seconds)

    def _run(self, bucket: str, method: str, arguments: dict[str, Any], seconds: float) -> Answer:
        file_system = self._file_system(bucket)
        answer: Answer = sync(file_system.loop, self._exchange, file_system, bucket, method, arguments, seconds)
        return answer

    async def _exchange(
        self, file_system: S3FileSystem, bucket: str, method: str, arguments: dict[str, Any], seconds: float
    ) -> Answer:
        """One attempt, body included, within `seconds` and what its length adds to them."""
        async with asyncio.timeout(seconds) as limit:
            client = await file_system.set_session()
            self._endpoints[bucket] = client.meta.endpoint_url
            refuse_secret(client.meta.endpoint_url, f"s3://{bucket}", self._endpoint_source(bucket))
            response: dict[str, Any] = await getattr(client, method)(**arguments)
            stream = response.pop("Body", None)
            if stream is None:
                return Answer(response, b"")
            announced = int(response["ContentLength"])
            limit.reschedule(asyncio.get_running_loop().time() + seconds + announced / _SLOWEST)
            async with stream:
                body: bytes = await stream.read()
            if len(body) != announced:
                raise ShortBodyError(f"{len(body)} of {announced} bytes")
            return Answer(response, body)

    def _configured(self, bucket: str) -> str | None:
        special = self._config.buckets.get(bucket)
        return (special and special.endpoint_url) or self._config.endpoint_url

    def _endpoint(self, bucket: str) -> str:
        """What the client found, else what it would begin with."""
        variable = next((os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)), None)
        return self._endpoints.get(bucket) or self._configured(bucket) or variable or _AMAZON

    def _endpoint_source(self, bucket: str) -> str:
        if self._configured(bucket):
            return "storage.endpoint_url"
        return next((name for name in _ENDPOINT_VARIABLES if os.environ.get(name)), "endpoint_url of the AWS profile")

    def _file_system(self, bucket: str) -> S3FileSystem:
        if self._pid != os.getpid():  # a forked child has the parent's sockets, but not its event loop
            self._pid, self._file_systems = os.getpid(), {}
        if bucket not in self._file_systems:
            special = self._config.buckets.get(bucket)
            self._file_systems[bucket] = S3FileSystem(
                endpoint_url=self._configured(bucket),
                profile=special.profile if special else None,
                config_kwargs={
                    "connect_timeout": self._config.connect_timeout,
                    "read_timeout": self._config.read_timeout,
                    "retries": {"total_max_attempts": 1},  # ours alone, or they multiply
                    "http_session_cls": _OnceSession,
                    "max_pool_connections": 32,
                    # Stores other than Amazon's refuse the checksum trailers that newer clients send unasked;
                    # the signature covers the body's SHA-256 as it is.
                    "request_checksum_calculation": _checksums("AWS_REQUEST_CHECKSUM_CALCULATION"),
                    "response_checksum_validation": _checksums("AWS_RESPONSE_CHECKSUM_VALIDATION"),
                },
                skip_instance_cache=True,
                use_listings_cache=False,
            )
        return self._file_systems[bucket]


class _OnceSession(AIOHTTPSession):  # type: ignore[misc]  # the library has no types
    """Sends each request once: aiohttp sends a put again by itself when a kept connection turns out dead.

    A refusal of that second put would look like somebody else's object, since we had sent but one.
    """

    async def _get_session(self, proxy_url: str | None) -> Any:
        session = await super()._get_session(proxy_url)
        session._retry_connection = False  # there is no public switch
        return session


def split(uri: str) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _checksums(variable: str) -> str:
    return os.environ.get(variable, "when_required").lower()
