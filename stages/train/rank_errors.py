"""What Ray Train's errors mean: an error of ours in a rank, a lost rank, a node that was taken away, or a defect."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from pipeline.engine_errors import refuse_hopeless
from pipeline.errors import GradsieveError, RunError
from stages.train.spec import TrainSpec

Value = TypeVar("Value")

_BROKEN_CONNECTION = ("gloo/transport/", "Connection closed by peer", "Connection reset by peer", "ncclRemoteError")
"""What gloo and NCCL say in a rank whose peer is gone; they have no class of error for it."""

_NOT_STARTED = ("WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError", "InsufficientClusterResourcesError")
"""Ray Train's errors before any rank ran; their classes are not public."""


class RankLostError(Exception):
    """A process died, or its node; nothing in its code was wrong."""


class NoRoomError(RankLostError):
    """Ranks were not placed or did not come up: a node that was counted on is gone, or others are at work on it."""


class NodeTakenError(RankLostError):
    """A node was preempted before its ranks had left it: foreseen, hence not counted."""


def translated(fit: Callable[[], Value], spec: TrainSpec) -> Value:
    """Raise what a rank raised as itself.

    Raises:
        GradsieveError: a rank's own; or RunError where the cluster is gone, or for a defect.
        RankLostError: a process or its node is gone, and training can go on elsewhere.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    try:
        return fit()
    except TrainingFailedError as failed:
        causes = list(_causes(failed))
        ours = next((cause for cause in causes if isinstance(cause, GradsieveError)), None)
        if ours is not None:
            raise ours from None
        taken = next((cause for cause in causes if _is_preemption(cause)), None)
        if taken is not None:
            raise NodeTakenError(_first_line(taken)) from failed
        missed = next((cause for cause in causes if type(cause).__name__ in _NOT_STARTED), None)
        if missed is not None:
            raise NoRoomError(_first_line(missed).partition(". ")[0]) from failed  # advice follows, of other settings
        died = next((cause for cause in causes if isinstance(cause, RayError) or _is_loss(type(cause).__name__)), None)
        if died is None and all(map(_is_broken_connection, causes)):
            died = causes[0]  # the rank that died is not known to be dead yet
        if died is not None:
            raise RankLostError(_first_line(died)) from failed
        raise RunError(
            "training failed",
            where=spec.name,
            found="; ".join(f"{type(cause).__name__}: {cause}" for cause in causes[:3]) or failed,
            next_step="this is a defect: please report it with the log",
        ) from failed
    except RayError as error:  # the controller of the ranks died, with its node or of itself
        refuse_hopeless(error, spec.name)
        raise (NodeTakenError if _is_preemption(error) else RankLostError)(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _is_broken_connection(cause: BaseException) -> bool:
    text = str(cause)
    return any(said in text for said in _BROKEN_CONNECTION)


def _is_loss(name: str) -> bool:
    """Whether Ray Train calls a lost process or node by this name (its classes are not public)."""
    return "Health" in name


def _is_preemption(cause: BaseException) -> bool:
    """Whether a process died, or was ended, because its node was drained."""
    return type(cause).__name__ == "PreemptionError" or bool(getattr(cause, "preempted", False))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors of single ranks inside Ray's, and what caused them."""
    failures = getattr(error, "worker_failures", None)
    nested = list(failures.values()) if failures else []
    nested += [getattr(error, "controller_failure", None), getattr(error, "_base_exc", None), error.__cause__]
    if not failures:
        yield error
    for inner in nested:
        if isinstance(inner, BaseException):
            yield from _causes(inner)
