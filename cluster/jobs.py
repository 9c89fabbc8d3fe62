"""A run as a job of a Ray cluster: submit it, follow it, stop it, and learn its driver's own exit code.

`ray job submit` ends with 0 or 1 whatever the driver ended with, and with its log at a connection that was lost; what
is here does neither.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tenacity import retry, retry_if_exception_message, stop_after_delay, wait_fixed

from pipeline.errors import RunError, UserError, without_secret

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
EXCLUDED = (".git/", ".venv/", "__pycache__/", "runs/", "data/", "*.tar", "*.parquet", "*.npy", "*.pt")
"""What no job carries along: data is read from storage, packages are in the cluster's image."""
PATIENCE_SECONDS = 600.0
"""How long a lost connection is tried again."""
_STOP_MARGIN_SECONDS = 10
_RETRY_SECONDS = 2.0
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_EXIT_CODES = {"SUCCEEDED": 0, "STOPPED": 143}
_KILLED = 128 + signal.SIGKILL
_GOES_ON = "the same command goes on from what is finished"


@dataclass(frozen=True)
class Job:
    """What is submitted."""

    entrypoint: str
    """Shell command of the driver."""
    working_dir: str
    """Local folder that the driver runs in a copy of."""
    metadata: Mapping[str, str]
    """Shown in the dashboard: run, config, owner."""
    grace_seconds: float
    """How long the driver may take to save itself when it is stopped."""
    environment: Mapping[str, str]
    """Variables of the driver and its tasks; shown in the dashboard, so no secret may be among them."""


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str, *, patience: float = PATIENCE_SECONDS) -> None:
        """Connect.

        Args:
            address: URL of the dashboard, such as `DEFAULT_ADDRESS`.
            patience: seconds for which a lost connection is tried again.

        Raises:
            UserError: nobody answers there, or this process is not let in.
        """
        self.address = address
        self._patience = patience
        with _told(address):
            from ray.job_submission import JobSubmissionClient

            logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # the driver has the last word
            self._client: Any = JobSubmissionClient(address)

    def submit(self, job: Job, submission_id: str) -> None:
        """Upload the working directory and start the driver.

        Raises:
            UserError: the cluster refuses the job.
        """
        stop = int(job.grace_seconds) + _STOP_MARGIN_SECONDS  # Ray's own 3 s are too few for a checkpoint
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(stop), "RAY_TRAIN_ENABLE_STATE_TRACKING": "1", **job.environment}
        submit = retry(
            retry=retry_if_exception_message(match=".*No available agent.*"),  # the cluster has only just come up
            stop=stop_after_delay(self._patience),
            wait=wait_fixed(_RETRY_SECONDS),
            reraise=True,
        )(self._client.submit_job)
        with _told(self.address):
            submit(
                entrypoint=job.entrypoint,
                submission_id=submission_id,
                metadata=dict(job.metadata),
                runtime_env={"working_dir": job.working_dir, "excludes": list(EXCLUDED), "env_vars": environment},
            )

    def follow(self, submission_id: str, show: Callable[[str], None], warn: Callable[[str], None]) -> int:
        """Show a job's log from its start until it ends; a connection that is lost is taken up again.

        Args:
            submission_id: of the job.
            show: takes each new piece of the log.
            warn: takes a line about the connection.

        Returns:
            The driver's exit code.

        Raises:
            UserError: there is no such job.
            RunError: the cluster could not be reached for too long, or lost the driver.
        """
        log = _Log(show)
        lost_since: float | None = None
        while True:
            try:
                if self._client.get_job_info(submission_id).status not in _ENDED:
                    asyncio.run(self._tail(submission_id, log))
                info = self._client.get_job_info(submission_id)
                if info.status in _ENDED:
                    log.take(self._client.get_job_logs(submission_id), 0)
                    code = _exit_code(info)
                    if code == _KILLED:
                        warn("the driver was killed and could say nothing (memory is the usual reason); " + _GOES_ON)
                    return code
                lost_since = None
            except Exception as error:  # Ray's client has no class of its own for a connection that is lost
                if isinstance(error, RunError):
                    raise
                if "does not exist" in str(error):
                    raise _no_such_job(submission_id, self.address) from None
                now = time.monotonic()
                lost_since = lost_since or now
                if now - lost_since > self._patience:
                    raise self._unreachable(submission_id, error) from error
                warn(f"the connection to {self.address} is lost; trying again")
            time.sleep(_RETRY_SECONDS)

    def stop(self, submission_id: str) -> None:
        """Tell a driver to end; it takes a checkpoint within its time of grace."""
        with _told(self.address):
            self._client.stop_job(submission_id)

    async def _tail(self, submission_id: str, log: "_Log") -> None:
        """Pass on the log as it grows, until the job ends or the connection does; each time from its start."""
        position = 0
        async for piece in self._client.tail_job_logs(submission_id):
            log.take(piece, position)
            position += len(piece)

    def _unreachable(self, submission_id: str, error: Exception) -> RunError:
        return RunError(
            "the cluster cannot be reached; the job may go on there",
            where=f"{self.address}, job {submission_id}",
            found=_first_line(error),
            next_step=f"gradsieve submit --follow {submission_id} --address {self.address}",
        )


class _Log:
    """Shows each part of a log once, however often it is read from its start."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._shown = show, 0

    def take(self, piece: str, position: int) -> None:
        """A piece that begins so many characters behind the log's start."""
        new = piece[max(0, self._shown - position) :]
        if new:
            self._shown = position + len(piece)
            self._show(new)


def _exit_code(info: Any) -> int:
    """The driver's own exit code; of one that a signal ended 128 and the signal's number, as shells have it.

    Raises:
        RunError: there was no driver that could have one.
    """
    if info.driver_exit_code is not None and info.status != "STOPPED":
        code = int(info.driver_exit_code)
        return code if code >= 0 else 128 - code
    if info.status in _EXIT_CODES:
        return _EXIT_CODES[info.status]
    raise RunError(
        "the cluster lost the driver, or could not start it",
        where=info.submission_id,
        found=_first_line(info.message or info.error_type or "nothing more is known"),
        next_step=f"see the cluster's dashboard; {_GOES_ON}",
    )


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Say in words what Ray's client raises."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        yield
    except (RuntimeError, ConnectionError, OSError, ValueError) as error:
        if "does not exist" in str(error):
            raise _no_such_job("", address) from None
        raise UserError(
            "the cluster does not take this",
            where=without_secret(address),
            found=_first_line(error),
            next_step="see that the dashboard is reached there (--address, or RAY_API_SERVER_ADDRESS), that its token "
            "is given (RAY_AUTH_TOKEN) or RAY_AUTH_MODE=disabled is set, and that .rayignore keeps data out of the "
            "working directory",
        ) from error


def _no_such_job(submission_id: str, address: str) -> UserError:
    return UserError(
        "no such job", where=address, found=submission_id or None, next_step="see `ray job list` for those there are"
    )


def _first_line(error: object) -> str:
    return next((line for line in str(error).strip().splitlines() if line.strip()), type(error).__name__)
