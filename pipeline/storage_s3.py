"""Objects in an S3 store, through s3fs; conditional puts make the commit protocol possible."""

import os
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from s3fs import S3FileSystem

from pipeline.storage import Stat, StorageConfig

_MULTIPART_ABOVE = 4 << 30
_ABSENT = {"NoSuchKey", "404", "NotFound", "NoSuchBucket"}
_TAKEN = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_BEYOND_END = {"InvalidRange", "416"}


class S3Backend:
    """Single-request puts and ranged gets; one file system a bucket, as buckets may live apart."""

    def __init__(self, config: StorageConfig) -> None:
        """Nothing is contacted until the first call."""
        # Stores other than Amazon's refuse the checksum trailers that newer clients send unasked.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        self._config = config
        self._file_systems: dict[str, S3FileSystem] = {}

    def read(self, uri: str, start: int, length: int | None) -> bytes:
        """See `Backend.read`."""
        span = f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"
        if length == 0:
            return b""
        try:
            response = self._call("get_object", uri, **({} if length is None and start == 0 else {"Range": span}))
        except (OSError, ClientError) as error:
            if _code(error) in _BEYOND_END:
                return b""
            raise
        return self._body(uri, response)

    def stat(self, uri: str) -> Stat:
        """See `Backend.stat`."""
        response = self._call("head_object", uri)
        return Stat(uri, int(response["ContentLength"]), response["ETag"].strip('"'))

    def list(self, uri: str) -> list[Stat]:
        """See `Backend.list`."""
        bucket, key = _split(uri)
        found: list[Stat] = []
        token: str | None = None
        while True:
            more: dict[str, str] = {"ContinuationToken": token} if token else {}
            page = self._fs(bucket).call_s3("list_objects_v2", Bucket=bucket, Prefix=key.rstrip("/") + "/", **more)
            found += [
                Stat(f"s3://{bucket}/{entry['Key']}", int(entry["Size"]), entry["ETag"].strip('"'))
                for entry in page.get("Contents", [])
                if not entry["Key"].endswith("/")
            ]
            token = page.get("NextContinuationToken")
            if not token:
                return sorted(found)

    def put(self, uri: str, data: bytes, *, overwrite: bool) -> None:
        """See `Backend.put`."""
        self._put(uri, data, {} if overwrite else {"IfNoneMatch": "*"})

    def put_file(self, uri: str, local: Path, *, overwrite: bool) -> None:
        """See `Backend.put_file`."""
        if local.stat().st_size <= _MULTIPART_ABOVE:
            self.put(uri, local.read_bytes(), overwrite=overwrite)
            return
        bucket, key = _split(uri)
        mode = "overwrite" if overwrite else "create"
        self._fs(bucket).put_file(str(local), f"{bucket}/{key}", mode=mode)

    def compare_and_swap(self, uri: str, old: bytes | None, new: bytes) -> bool:
        """See `Backend.compare_and_swap`."""
        try:
            if old is None:
                self._put(uri, new, {"IfNoneMatch": "*"})
                return True
            current = self._call("get_object", uri)
            if self._body(uri, current) != old:
                return False
            self._put(uri, new, {"IfMatch": current["ETag"]})
        except (FileExistsError, FileNotFoundError):
            return False
        return True

    def delete(self, uri: str) -> None:
        """See `Backend.delete`."""
        self._call("delete_object", uri)

    def _put(self, uri: str, data: bytes, condition: dict[str, str]) -> None:
        self._call("put_object", uri, Body=data, **condition)

    def _call(self, method: str, uri: str, **arguments: Any) -> dict[str, Any]:
        bucket, key = _split(uri)
        try:
            response: dict[str, Any] = self._fs(bucket).call_s3(method, Bucket=bucket, Key=key, **arguments)
        except (OSError, ClientError) as error:
            code = _code(error)
            if code in _ABSENT:
                raise FileNotFoundError(uri) from error
            if code in _TAKEN:
                raise FileExistsError(uri) from error
            raise
        return response

    def _body(self, uri: str, response: dict[str, Any]) -> bytes:
        from fsspec.asyn import sync

        bucket, _ = _split(uri)
        body: bytes = sync(self._fs(bucket).loop, response["Body"].read)
        return body

    def _fs(self, bucket: str) -> S3FileSystem:
        if bucket not in self._file_systems:
            special = self._config.buckets.get(bucket)
            self._file_systems[bucket] = S3FileSystem(
                endpoint_url=(special and special.endpoint_url) or self._config.endpoint_url,
                profile=special.profile if special else None,
                config_kwargs={
                    "connect_timeout": self._config.connect_timeout,
                    "read_timeout": self._config.read_timeout,
                    "retries": {"max_attempts": self._config.max_attempts, "mode": "standard"},
                },
                skip_instance_cache=True,
                use_listings_cache=False,
            )
        return self._file_systems[bucket]


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _code(error: BaseException) -> str:
    """The service's own error code; s3fs wraps it in an OSError that names only an errno."""
    client_error = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(client_error, ClientError):
        return ""
    return str(client_error.response.get("Error", {}).get("Code"))
