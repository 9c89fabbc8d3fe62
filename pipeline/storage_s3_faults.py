"""What can go wrong between us and an S3 store: what is worth another try, and how the rest is told.

Messages name the service's error code, never its text: a store's answer to a wrong signature repeats the
signed headers, a session token among them.
"""

from typing import Final
from urllib.parse import urlsplit

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from pipeline.errors import GradsieveError, RunError, UserError

_ABSENT: Final = {"NoSuchKey", "404", "NotFound", "NoSuchUpload"}
_TAKEN: Final = {"PreconditionFailed", "412"}
_BUSY: Final = {"ConditionalRequestConflict", "OperationAborted"}
"""Another conditional write of the same name was under way: the same request is to be sent again."""
_BEYOND_END: Final = {"InvalidRange", "416"}
_UNSUPPORTED: Final = {"NotImplemented", "501"}
_TRANSIENT_CODES: Final = {
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestTimeout", "RequestTimeoutException",
    "InternalError", "ServiceUnavailable", "IncompleteBody", *_BUSY,
}  # fmt: skip
_TRANSIENT_STATUS: Final = {408, 429, 500, 502, 503, 504}
_REJECTED: Final = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken",
    "TokenRefreshRequired", "RequestTimeTooSkewed", "InvalidClientTokenId", "RequestExpired",
}  # fmt: skip
_DENIED: Final = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "UserSuspended", "AccountProblem"}
_NO_CREDENTIALS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.ProfileNotFound,
    boto.ConfigParseError,
)
_NEVER_CONNECTED: Final = (boto.EndpointConnectionError, boto.ConnectTimeoutError)
_CERTIFICATE: Final = (boto.SSLError, aiohttp.ClientConnectorCertificateError)
STORE_ERRORS: Final = (
    boto.BotoCoreError,
    ResponseParserError,
    boto.ClientError,
    aiohttp.ClientError,
    OSError,
    ValueError,
)
"""All that a request can raise."""


class ShortBodyError(OSError):
    """Fewer bytes arrived than the answer's own header announced."""


class TakenError(FileExistsError):
    """A conditional put was refused: the object is there, or is not what it was."""

    def __init__(self, uri: str, *, retried: bool) -> None:
        """`retried`: an attempt before this one may have been carried out, so the object may be our own."""
        super().__init__(uri)
        self.retried = retried


class LostUploadError(TakenError):
    """An upload in parts is gone: completed by an attempt whose answer was lost, or aborted by somebody."""


class BeyondEndError(OSError):
    """A range begins behind the object's last byte."""


class UnsupportedError(OSError):
    """The store does not know this kind of request."""


def code_of(error: BaseException) -> str:
    """The service's error code, its HTTP status where the answer had no body, or the kind of the fault."""
    if isinstance(error, boto.ClientError):
        return str(error.response.get("Error", {}).get("Code") or _status(error))
    return type(error).__name__


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: throttling, 5xx, lost connections, cut bodies, time-outs."""
    if isinstance(error, boto.ClientError):
        return code_of(error) in _TRANSIENT_CODES or _status(error) in _TRANSIENT_STATUS
    if isinstance(error, _CERTIFICATE):
        return False
    lost = (
        boto.HTTPClientError,
        boto.ConnectionError,
        boto.IncompleteReadError,
        ResponseParserError,
        aiohttp.ClientError,
    )
    return isinstance(error, (*lost, ConnectionError, TimeoutError, ShortBodyError))


def outcome(error: BaseException, uri: str, *, attempts: int, endpoint: str, profile: str | None) -> Exception:
    """What a caller gets for the last error of a request: an outcome it may await, or a message to a user."""
    code = code_of(error)
    if isinstance(error, boto.ClientError):
        if code in _ABSENT:
            return FileNotFoundError(uri)
        if code in _TAKEN or code in _BUSY:
            return TakenError(uri, retried=attempts > 1 or code in _BUSY)
        if code in _BEYOND_END:
            return BeyondEndError(uri)
        if code in _UNSUPPORTED or _status(error) == 501:
            return UnsupportedError(uri)
    if isinstance(error, OSError | ValueError) and not is_transient(error) and not _is_endpoint_fault(error):
        return error  # a fault of this side: an unreadable local file, say
    return _message(error, code, uri, attempts=attempts, endpoint=public_url(endpoint), profile=profile)


def public_url(url: str) -> str:
    """A URL without user name, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def refuse_secret(url: str, uri: str, source: str) -> None:
    """Refuse an endpoint with a user name, password or query in it: it would be repeated wherever endpoints are.

    Args:
        url: the endpoint.
        uri: what was to be reached there.
        source: where the endpoint comes from.

    Raises:
        UserError: without the secret.
    """
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise UserError(
            "an endpoint holds credentials",
            where=uri,
            expected=f"{source} without user name, password or query: {public_url(url)}",
            next_step="take them out of it: credentials come from the environment, a profile or the machine's role",
        )


def _message(
    error: BaseException, code: str, uri: str, *, attempts: int, endpoint: str, profile: str | None
) -> GradsieveError:
    chain = f"profile {profile!r}" if profile else "environment, shared credentials file, then the machine's own role"
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if isinstance(error, _NO_CREDENTIALS):
        return UserError(
            "no usable credentials for the object store",
            where=uri,
            expected=f"credentials from the usual chain: {chain}",
            found=code,
            next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or storage.buckets.NAME.profile",
        )
    if code in _REJECTED:
        return UserError(
            "the object store refused the credentials",
            where=uri,
            expected=f"valid credentials for {endpoint}, taken from: {chain}",
            found=code,
            next_step="renew or correct them and run the same command: it goes on from here",
        )
    if code in _DENIED:
        return UserError(
            "the object store denies access",
            where=uri,
            expected=f"permission for the identity from: {chain}",
            found=f"{code} from {endpoint}",
            next_step="allow it to list, get, put and delete here; without the right to list, absence is denial too",
        )
    if code == "NoSuchBucket":
        return UserError(
            "no such bucket",
            where=uri,
            expected=f"a bucket {bucket!r} at {endpoint}",
            found=code,
            next_step="create it or correct its name; storage.buckets says which endpoint holds which bucket",
        )
    if isinstance(error, boto.ParamValidationError):
        return UserError("not a name that an object store accepts", where=uri, expected="s3://bucket/key", found=code)
    if _is_endpoint_fault(error):
        return UserError("not an endpoint", where=endpoint, expected="http://host:port or https://host", found=code)
    if isinstance(error, _NEVER_CONNECTED):
        return RunError(
            "the object store cannot be reached",
            where=uri,
            expected=f"an S3 service at {endpoint}",
            found=f"{code}, {attempts} times",
            next_step="check storage.endpoint_url or AWS_ENDPOINT_URL; the same command goes on from here",
        )
    return RunError(
        "the object store failed",
        where=uri,
        expected=f"an answer from {endpoint}",
        found=f"{code}, at the last of {attempts} attempt(s)",
        next_step="run the same command again: it goes on from here; storage.max_attempts and time-outs can be raised",
    )


def _is_endpoint_fault(error: BaseException) -> bool:
    return isinstance(error, boto.InvalidEndpointConfigurationError) or (
        type(error) is ValueError and str(error).startswith("Invalid endpoint")
    )


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
