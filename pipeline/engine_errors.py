"""What Ray's errors mean to a user, and which of them no second attempt can help."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import GradsieveError, RunError, UserError
from pipeline.progress import Reporter

FULL_SHARE = 0.95
"""Of the disk that Ray spills to; from there on it takes no more objects."""
ANSWER_SECONDS = 300.0
_TELL_SECONDS = 30.0
_GOES_ON = "the same command goes on from what is finished"


def ray_errors() -> tuple[type[Exception], ...]:
    """All that Ray raises of itself, apart from what a task raised."""
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError

    return (RayError, ExecutionTimeoutError)


def first_line(error: BaseException) -> str:
    """The first line that says something: of the error in a task rather than of the task's name."""
    cause = getattr(error, "cause", None)
    told = cause if isinstance(cause, BaseException) else error
    return next(iter(str(told).strip().splitlines()), type(told).__name__)


@contextmanager
def start_errors_named(address: str | None) -> Iterator[None]:
    """Tell why Ray did not start, or why its cluster cannot be reached.

    Raises:
        RunError: Ray did not start in this process.
        UserError: the cluster at `address` does not let this process in.
    """
    try:
        yield
    except GradsieveError:
        raise
    except (Exception, SystemExit) as error:  # Ray raises plain ones here, and ends the process when it gives up
        if address:
            raise no_cluster(address, error) from error
        raise RunError(
            "Ray did not start in this process",
            where="RAY_TMPDIR, else /tmp/ray",
            found=first_line(error),
            next_step="see whether that disk has space and can be written, and whether memory is left for "
            "`cluster.object_store_memory`; or do without Ray: `cluster.executor=in_process`",
        ) from error


def patience(address: str, reporter: Reporter) -> Callable[[], None]:
    """What is to be called while a cluster is waited for: says so now and then, and gives up in the end.

    Ray itself waits without end for the first answer of a cluster to which a connection can be made.

    Raises:
        RunError: there was no answer for 5 minutes.
    """
    begun = time.monotonic()
    told = 0

    def wait() -> None:
        nonlocal told
        waited = time.monotonic() - begun
        if waited >= ANSWER_SECONDS:
            raise RunError(
                "the Ray cluster does not answer",
                where=address,
                expected=f"an answer within {ANSWER_SECONDS:.0f} s",
                found="connections can be made, and nothing comes back",
                next_step=f"see what `ray status --address {address}` says; the same command tries again",
            )
        if waited >= (told + 1) * _TELL_SECONDS:
            told += 1
            reporter.say(f"waiting for the Ray cluster at {address} to answer, for {waited:.0f} s")

    return wait


def no_cluster(address: str, error: BaseException) -> UserError:
    """What to tell of an address where no cluster answers or lets this process in."""
    return UserError(
        "no Ray cluster lets this run in there",
        where=address,
        expected="a Ray cluster (cluster.address, or RAY_ADDRESS)",
        found=first_line(error),
        next_step="start it, correct the address, give its token (RAY_AUTH_TOKEN) or set cluster.auth_mode=disabled; "
        "without an address Ray is embedded",
    )


def refuse_hopeless(error: Exception, name: str) -> None:
    """Stop where no task can help: shared memory is full, nothing moves any more, or the cluster is gone.

    Raises:
        RunError: it is one of these.
    """
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError

    stalled = isinstance(error, ExecutionTimeoutError)
    if isinstance(error, ObjectStoreFullError | OutOfDiskError) or (stalled and _disk_full()):
        raise RunError(
            "Ray's object store is full",
            where=name,
            found=first_line(error),
            next_step="raise `cluster.object_store_memory`, or free space on the disk of Ray's temporary folder "
            f"(RAY_TMPDIR, else /tmp/ray); {_GOES_ON}",
        ) from error
    if stalled:
        raise RunError(
            f"{name} made no progress",
            expected="a finished task within `cluster.stalled_after_seconds`",
            found=first_line(error),
            next_step="see whether nodes are there for it (`ray status`) and what its tasks wait for; raise the limit "
            f"if they are only slow; {_GOES_ON}",
        ) from error
    if not _cluster_lives():
        raise RunError("the Ray cluster is gone", where=name, found=first_line(error), next_step=_GOES_ON) from error


def died_each_time(error: Exception, name: str, item: str, retries: int) -> RunError:
    """What to tell of a partition at which every worker died."""
    from ray.exceptions import OutOfMemoryError

    if isinstance(error, OutOfMemoryError):
        return RunError(
            f"memory ran out each time a worker of {name} was given this partition",
            where=item,
            found=first_line(error),
            next_step=f"let fewer tasks run at once (`cluster.num_cpus`), or use nodes with more memory; {_GOES_ON}",
        )
    return RunError(
        f"a worker of {name} died each time it was given this partition",
        where=item,
        expected=f"at most {retries} deaths (cluster.task_retries)",
        found=first_line(error),
        next_step=f"memory is the usual reason: give tasks more of it, or see what is odd about that input; {_GOES_ON}",
    )


def _disk_full() -> bool:
    """Whether the disk of Ray's temporary folder on this node is."""
    import ray

    node: Any = ray._private.worker._global_node
    if node is None:
        return False
    try:
        usage = shutil.disk_usage(node.get_session_dir_path())
    except OSError:
        return False
    return usage.used / usage.total >= FULL_SHARE


def _cluster_lives() -> bool:
    import ray
    from ray.exceptions import RayError

    try:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    except (RayError, RuntimeError, OSError):
        return False
    return any(node["Alive"] for node in nodes)
