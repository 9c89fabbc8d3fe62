"""Objects in an S3 store, through s3fs; conditional puts make the commit protocol possible.

Where a store has no conditional puts, names are looked up before they are written: one run alone is as
safe as elsewhere, two at once on one output are not.
"""

import logging
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from pipeline import storage_s3_multipart as multipart
from pipeline.storage import Stat, StorageConfig
from pipeline.storage_s3_faults import BeyondEndError, ShortBodyError, TakenError, UnsupportedError
from pipeline.storage_s3_requests import Answer, BytesSource, FileSource, Requests, Source, split

_PIECE: Final = 64 << 20
_NO_ETAG: Final = '"00000000000000000000000000000000"'

_log = logging.getLogger(__name__)


class S3Backend:
    """Single-request puts and ranged gets; above a limit, uploads in parts."""

    def __init__(self, config: StorageConfig) -> None:
        """Nothing is contacted until the first call."""
        self._requests = Requests(config)
        self._conditional: dict[str, bool] = {}

    def read(self, uri: str, start: int, length: int | None) -> bytes:
        """See `Backend.read`."""
        if length == 0:
            return b""
        if start == 0 and length is None:
            return self._requests.send("get_object", uri).body
        end = None if length is None else start + length
        span = f"bytes={start}-{'' if end is None else end - 1}"

        def whole(answer: Answer) -> None:
            _check_range(answer, start, end)

        try:
            answer = self._requests.send("get_object", uri, check=whole, Range=span)
        except BeyondEndError:
            return b""
        if "ContentRange" in answer.response:
            return answer.body
        return answer.body[start:end]  # the store gave the whole object instead

    def stat(self, uri: str) -> Stat:
        """See `Backend.stat`."""
        response = self._requests.send("head_object", uri).response
        return Stat(uri, int(response["ContentLength"]), response["ETag"].strip('"'))

    def list(self, uri: str) -> list[Stat]:
        """See `Backend.list`; hidden names are left out, as on disk."""
        bucket, key = split(uri)
        found: list[Stat] = []
        token: str | None = None
        while True:
            more: dict[str, Any] = {"Prefix": key.rstrip("/") + "/" if key else "", "ContinuationToken": token}
            page = self._requests.send("list_objects_v2", uri, Key=None, **more).response
            found += [
                Stat(f"s3://{bucket}/{entry['Key']}", int(entry["Size"]), entry["ETag"].strip('"'))
                for entry in page.get("Contents", [])
                if not entry["Key"].endswith("/") and not entry["Key"].rpartition("/")[2].startswith(".")
            ]
            token = page.get("NextContinuationToken")
            if not token:
                return sorted(found)

    def put(self, uri: str, data: bytes, *, overwrite: bool) -> None:
        """See `Backend.put`."""
        self._put(uri, BytesSource(data), overwrite=overwrite)

    def put_file(self, uri: str, local: Path, *, overwrite: bool) -> None:
        """See `Backend.put_file`."""
        self._put(uri, FileSource(local), overwrite=overwrite)

    def compare_and_swap(self, uri: str, old: bytes | None, new: bytes) -> bool:
        """See `Backend.compare_and_swap`.

        After a put whose answer was lost, finding `new` counts as having put it; contents of contended
        objects must therefore name their writer.
        """
        if old is None:
            try:
                self._put(uri, BytesSource(new), overwrite=False)
            except FileExistsError:
                return False
            return True
        try:
            current = self._requests.send("get_object", uri)
            if current.body != old:
                return False
            if not self._has_conditions(uri):
                self._requests.send("put_object", uri, source=BytesSource(new))
                return self._requests.send("get_object", uri).body == new
            return self._swap(uri, current, new)
        except FileNotFoundError:
            return False

    def _swap(self, uri: str, current: Answer, new: bytes) -> bool:
        """Replace an object by a put on condition that it is still the one that was read.

        Ceph compares the tag as it is stored, without quotes; others want it as they gave it.
        """
        given = current.response["ETag"]
        for tag in dict.fromkeys((given.strip('"'), given)):
            try:
                self._requests.send("put_object", uri, source=BytesSource(new), IfMatch=tag)
            except TakenError as error:
                found = self._requests.send("get_object", uri)
                if error.retried and found.body == new:
                    return True
                if found.response["ETag"] != given:
                    return False
            else:
                return True
        return False

    def delete(self, uri: str) -> None:
        """See `Backend.delete`."""
        try:
            self._requests.send("delete_object", uri)
        except FileNotFoundError:
            return  # some stores say so

    def _put(self, uri: str, source: Source, *, overwrite: bool) -> None:
        try:
            if source.size > multipart.SINGLE_PUT_LIMIT:
                conditional = not overwrite and self._has_conditions(uri)
                multipart.put_in_parts(self._requests, uri, source, overwrite=overwrite, conditional=conditional)
            elif overwrite:
                self._requests.send("put_object", uri, source=source)
            elif self._has_conditions(uri):
                self._requests.send("put_object", uri, source=source, IfNoneMatch="*")
            else:
                self._put_if_unseen(uri, source)
        except TakenError as error:
            if not (error.retried and self._holds(uri, source)):
                raise FileExistsError(uri) from None

    def _put_if_unseen(self, uri: str, source: Source) -> None:
        try:
            self.stat(uri)
        except FileNotFoundError:
            self._requests.send("put_object", uri, source=source)
            return
        raise FileExistsError(uri)

    def _has_conditions(self, uri: str) -> bool:
        """Whether the bucket's store honours conditions on puts; asked once a process and bucket.

        Asked by a put that every store with conditions must refuse, since it wants to replace an object
        that does not exist: nothing is written there. A store that carries it out ignores conditions.
        """
        bucket, _ = split(uri)
        if bucket not in self._conditional:
            probe = f"{uri.rpartition('/')[0]}/.conditions-{uuid4().hex}"
            try:
                self._requests.send("put_object", probe, source=BytesSource(b""), IfMatch=_NO_ETAG)
            except (FileNotFoundError, TakenError):
                self._conditional[bucket] = True
            except UnsupportedError:
                self._conditional[bucket] = False
            else:
                self.delete(probe)
                self._conditional[bucket] = False
            if not self._conditional[bucket]:
                _log.warning(
                    "the store of bucket %s has no conditional puts: start no two runs on one output at once", bucket
                )
        return self._conditional[bucket]

    def _holds(self, uri: str, source: Source) -> bool:
        """Whether the object is, byte for byte, what was to be put."""
        try:
            if self.stat(uri).bytes != source.size:
                return False
            return all(
                self.read(uri, offset, _PIECE) == source.part(offset, _PIECE)
                for offset in range(0, source.size, _PIECE)
            )
        except FileNotFoundError:
            return False


def _check_range(answer: Answer, start: int, end: int | None) -> None:
    """A partial answer holds all of the range that the object has."""
    described = answer.response.get("ContentRange")  # bytes FIRST-LAST/TOTAL
    if described is None:
        return
    first, _, rest = described.removeprefix("bytes ").partition("-")
    total = int(rest.partition("/")[2])
    wanted = min(end or total, total) - start
    if int(first) != start or len(answer.body) != wanted:
        raise ShortBodyError(f"{described}, {len(answer.body)} bytes, of {wanted} from {start}")
