"""Objects in an S3 store, through s3fs; conditional puts make the commit protocol possible.

Where a store has no conditional puts, names are looked up before they are written, and swaps are read back after
`SETTLE_SECONDS`: one run alone is as safe as elsewhere, two at once on one output have the lease alone.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from pipeline import storage_s3_multipart as multipart
from pipeline.errors import RunError, UserError
from pipeline.storage import Stat, StorageConfig
from pipeline.storage_s3_faults import BeyondEndError, LostUploadError, ShortBodyError, TakenError, UnsupportedError
from pipeline.storage_s3_requests import Answer, BytesSource, FileSource, Requests, Source, split

SETTLE_SECONDS = 1.0
"""How long a swap waits for another one of the same moment to show itself, in stores without conditional puts."""
LIST_PAGE = 1000
"""Objects that a listing asks for at once: as many as stores give."""
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

    def read_many(self, uri: str, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """See `Backend.read_many`: a request each."""
        for start, length in ranges:
            yield self.read(uri, start, length)

    def stat(self, uri: str) -> Stat:
        """See `Backend.stat`."""
        try:
            response = self._requests.send("head_object", uri).response
        except UserError:
            self._ask_why(uri)
            raise
        return Stat(uri, int(response["ContentLength"]), response["ETag"].strip('"'))

    def _ask_why(self, uri: str) -> None:
        """Raise what a get is refused with: an answer to HEAD has no body, and so no code that tells the reason."""
        with suppress(FileNotFoundError, BeyondEndError):
            self._requests.send("get_object", uri, Range="bytes=0-0")

    def list(self, uri: str, *, hidden: bool) -> list[Stat]:
        """See `Backend.list`."""
        bucket, key = split(uri)
        found: list[Stat] = []
        token: str | None = None
        while True:
            prefix = key.rstrip("/") + "/" if key else ""
            more: dict[str, Any] = {"Prefix": prefix, "MaxKeys": LIST_PAGE, "ContinuationToken": token}
            page = self._requests.send("list_objects_v2", uri, Key=None, **more).response
            found += [
                Stat(f"s3://{bucket}/{entry['Key']}", int(entry["Size"]), entry["ETag"].strip('"'))
                for entry in page.get("Contents", [])
                if not entry["Key"].endswith("/") and (hidden or not entry["Key"].rpartition("/")[2].startswith("."))
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
        try:
            if not self._has_conditions(uri):
                return self._swap_and_look(uri, old, new)
            if old is None:
                self._put(uri, BytesSource(new), overwrite=False)
                return True
            current = self._requests.send("get_object", uri)
            return current.body == old and self._swap(uri, current, new)
        except (FileExistsError, FileNotFoundError):
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

    def _swap_and_look(self, uri: str, old: bytes | None, new: bytes) -> bool:
        """Replace an object without any condition; of two that do so at once, the later one has it."""
        try:
            current: bytes | None = self._requests.send("get_object", uri).body
        except FileNotFoundError:
            current = None
        if current != old:
            return False
        self._requests.send("put_object", uri, source=BytesSource(new))
        time.sleep(SETTLE_SECONDS)
        return self._requests.send("get_object", uri).body == new

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
            if error.retried and self._holds(uri, source):
                return
            if isinstance(error, LostUploadError) and (overwrite or not self._exists(uri)):
                raise RunError(
                    "an upload in parts was lost",
                    where=uri,
                    expected="the upload, or the object that it makes",
                    found="neither: the upload was aborted, or what it made was replaced at once",
                    next_step="run the same command again: it goes on from here",
                ) from None
            raise FileExistsError(uri) from None

    def _put_if_unseen(self, uri: str, source: Source) -> None:
        if self._exists(uri):
            raise FileExistsError(uri)
        self._requests.send("put_object", uri, source=source)

    def _exists(self, uri: str) -> bool:
        try:
            self.stat(uri)
        except FileNotFoundError:
            return False
        return True

    def _has_conditions(self, uri: str) -> bool:
        """Whether the bucket's store honours conditions on puts; asked once a process and bucket."""
        bucket, _ = split(uri)
        if bucket not in self._conditional:
            self._conditional[bucket] = self._honours_conditions(f"{uri.rpartition('/')[0]}/.conditions-{uuid4().hex}")
            if not self._conditional[bucket]:
                _log.warning(
                    "the store of bucket %s has no conditional puts: start no two runs on one output at once", bucket
                )
        return self._conditional[bucket]

    def _honours_conditions(self, probe: str) -> bool:
        """Ask by puts that must be refused, since some stores carry out what they do not understand.

        `If-Match` must not replace what does not exist, nor `If-None-Match` what does.
        """
        try:
            if not self._refuses(probe, IfMatch=_NO_ETAG):
                return False
            self._refuses(probe, IfNoneMatch="*")  # makes it
            return self._refuses(probe, IfNoneMatch="*")
        except UnsupportedError:
            return False
        finally:
            self.delete(probe)

    def _refuses(self, uri: str, **condition: Any) -> bool:
        try:
            self._requests.send("put_object", uri, source=BytesSource(b""), **condition)
        except (FileNotFoundError, TakenError):
            return True
        return False

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
