"""Objects above the limit of a single put: in parts, visible only when completed, aborted when that fails."""

import logging
from typing import Any, Final

from pipeline.errors import RunError
from pipeline.storage_s3_faults import LostUploadError, TakenError
from pipeline.storage_s3_requests import BytesSource, Requests, Source

SINGLE_PUT_LIMIT = 5 * 1000**3
"""Bytes above which an object is put in parts."""
PART_BYTES = 64 << 20
"""Bytes of one part, more only where the object would need too many parts."""
_MOST_PARTS: Final = 10_000

_log = logging.getLogger(__name__)


def put_in_parts(requests: Requests, uri: str, source: Source, *, overwrite: bool, conditional: bool) -> None:
    """Put an object in parts.

    Without `overwrite`, stores that know conditions on completion (Amazon's) refuse it when the name is
    taken meanwhile; elsewhere the name is looked up before the completion, which leaves a moment between.

    Raises:
        TakenError: the object exists and must not be overwritten, or a completion that was sent twice
            may have been carried out (`retried`).
        LostUploadError: the same, told by the upload's being gone.
    """
    upload = requests.send("create_multipart_upload", uri).response["UploadId"]
    try:
        parts = _send_parts(requests, uri, source, upload)
        if not overwrite and _exists(requests, uri):
            raise TakenError(uri, retried=False)
        condition = "*" if conditional and not overwrite else None
        _complete(requests, uri, upload, parts, condition)
    except BaseException:
        _abort(requests, uri, upload)
        raise


def _send_parts(requests: Requests, uri: str, source: Source, upload: str) -> list[dict[str, Any]]:
    size = source.size
    length = max(PART_BYTES, -(-size // _MOST_PARTS))
    parts: list[dict[str, Any]] = []
    for number, offset in enumerate(range(0, size, length), start=1):
        data = source.part(offset, length)
        answer = requests.send("upload_part", uri, source=BytesSource(data), UploadId=upload, PartNumber=number)
        parts.append({"PartNumber": number, "ETag": answer.response["ETag"]})
    return parts


def _complete(
    requests: Requests, uri: str, upload: str, parts: list[dict[str, Any]], if_none_match: str | None
) -> None:
    try:
        requests.send(
            "complete_multipart_upload",
            uri,
            UploadId=upload,
            MultipartUpload={"Parts": parts},
            IfNoneMatch=if_none_match,
        )
    except FileNotFoundError:
        raise LostUploadError(uri, retried=True) from None  # the caller compares what is there now


def _exists(requests: Requests, uri: str) -> bool:
    try:
        requests.send("head_object", uri)
    except FileNotFoundError:
        return False
    return True


def _abort(requests: Requests, uri: str, upload: str) -> None:
    try:
        requests.send("abort_multipart_upload", uri, UploadId=upload)
    except FileNotFoundError:
        return  # completed or aborted already
    except (OSError, RunError) as error:  # the failure that led here is the one to tell
        _log.warning("parts of an unfinished upload of %s stay in the store: %s", uri, str(error).splitlines()[0])
