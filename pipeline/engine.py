"""The one seam to Ray Data: connect or embed, map partitions, report progress.

Ray moves descriptions of work, never rows: an item names a file, a range or a bucket, and the task
reads and writes it through `storage`. Results are small (file entries, counts, histograms).
"""

import logging
import os
import pickle
import socket
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline.artifact import Artifact
from pipeline.disk_errors import disk_error
from pipeline.engine_config import ClusterConfig, RoleConfig
from pipeline.engine_errors import (
    died_each_time,
    no_cluster,
    patience,
    ray_errors,
    refuse_hopeless,
    start_errors_named,
)
from pipeline.engine_loopback import died, exposure, loopback_alone
from pipeline.errors import GradsieveError, RunError
from pipeline.meter import Meter, Timed
from pipeline.metrics import count
from pipeline.progress import Reporter
from pipeline.termination import aside, own_sigterm

Item = TypeVar("Item")
Result = TypeVar("Result")

_AT_ONCE = 4
_CONNECT_SECONDS = 10.0
_ITEM_CHARACTERS = 500
_MOST_BLOCKS = 16_384
"""Ray tasks of one piece of work at most, as Ray Data keeps kilobytes of each: several of many items share one."""


class Engine:
    """Runs partitioned work; starts Ray when first needed and ends only what it started."""

    def __init__(
        self, config: ClusterConfig, reporter: Reporter, *, train_cpus: int = 0, meter: Meter | None = None
    ) -> None:
        """Nothing starts yet; `train_cpus` are logical CPUs that training will reserve."""
        self.config = config
        self.reporter = reporter
        self.meter = meter or Meter()
        self._train_cpus = train_cpus
        self._started = False
        self._embedded = False

    def map(
        self,
        task: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        name: str,
        unit: str = "partitions",
        weigh: Callable[[Item], int] = lambda _: 1,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        memory: int | None = None,
        role: RoleConfig | None = None,
    ) -> list[Result]:
        """Apply `task` to each item, anywhere; results in the order of the items.

        Args:
            task: a picklable function (a `functools.partial` of a module-level one).
            items: picklable descriptions of partitions.
            name: shown in progress and as the dataset's name in the Ray dashboard.
            unit: what `weigh` counts, for progress.
            weigh: units of work in an item.
            num_cpus: logical CPUs a task.
            num_gpus: GPUs a task; in-process tasks use what there is.
            memory: bytes that a task needs, for scheduling.
            role: which nodes it may run on; `cluster.kernels` by default.

        Raises:
            GradsieveError: as raised by a task, from the first one that failed.
            LimitReachedError: after a task, where the run has used what it may.
        """
        bundle = (role or self.config.kernels).bundle(num_cpus=num_cpus, num_gpus=num_gpus, memory=memory)
        results: dict[int, Result] = {}
        with self.reporter.bar(name, sum(map(weigh, items)), unit) as bar:
            for index, (seconds, result) in self._stream(Timed(task), items, name, bundle):
                results[index] = result
                self.meter.add(seconds, cpus=num_cpus, gpus=num_gpus)
                bar.advance(weigh(items[index]))
                if len(results) < len(items):
                    self.meter.check(name)
        if len(results) != len(items):
            raise RunError(
                "tasks ended without a result", where=name, expected=f"{len(items)} results", found=len(results)
            )
        return [results[index] for index in range(len(items))]

    def on_one_node(
        self, task: Callable[[Item], Result], item: Item, *, name: str, role: RoleConfig, memory: int | None = None
    ) -> Result:
        """Run one task on a single node of a role."""
        return self.map(task, [item], name=name, memory=memory, role=role)[0]

    def await_room(self, bundles: Sequence[dict[str, float]], name: str, *, seconds: float | None = None) -> None:
        """Wait until the cluster can hold all these processes at once; an embedded Ray is as it is.

        Raises:
            RunError: nodes did not come within so many seconds, `cluster.wait_for_nodes_seconds` by default.
        """
        if self.address is None:
            return
        self.ensure_ray()
        from cluster.room import await_room

        await_room(
            bundles, name, self.reporter, seconds=self.config.wait_for_nodes_seconds if seconds is None else seconds
        )

    def dataset(self, artifact: Artifact, prefix: str, name: str) -> Any:
        """Listed Parquet files of an artifact as a named, lazy Ray Dataset (one block a file)."""
        self.ensure_ray()
        import ray.data

        paths = [file.path for file in artifact.files(prefix, ".parquet")]
        dataset = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=max(1, len(paths)))
        opened = dataset.map_batches(_ReadTables(artifact), batch_format="pyarrow", batch_size=None)
        opened.set_name(name)
        return opened

    @property
    def address(self) -> str | None:
        """Of the cluster to connect to; None where Ray is embedded, or not wanted."""
        if self.config.executor == "in_process":
            return None
        return self.config.address or os.environ.get("RAY_ADDRESS") or None

    @property
    def alone(self) -> bool:
        """Whether Ray runs embedded in this process, so that all of its processes are on this machine."""
        return self._embedded and self.address is None

    def preflight(self) -> None:
        """Refuse a cluster that does not answer, before any work; Ray itself would try for minutes.

        Raises:
            UserError: nothing listens at the address.
        """
        address = self.address
        if address is None:
            return
        place = urlsplit(address if "//" in address else f"//{address}")
        if place.hostname is None or place.port is None:
            return  # such as `auto`: only Ray knows
        try:
            socket.create_connection((place.hostname, place.port), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise no_cluster(address, error) from error

    def ensure_ray(self) -> None:
        """Connect to the configured cluster, or embed Ray in this process; once.

        Raises:
            UserError: the cluster does not let this process in.
        """
        if self._started:
            return
        address = self.address
        mode = self.config.auth_mode or ("token" if address else "disabled")
        os.environ.setdefault("RAY_AUTH_MODE", mode)
        for key, value in _QUIET.items():
            os.environ.setdefault(key, value)
        warnings.filterwarnings("ignore", module="ray")
        with nullcontext() if address else loopback_alone():
            import ray
            from ray.data import DataContext

            if not ray.is_initialized():
                start = partial(
                    ray.init, **self._init_options(address), log_to_driver=False, logging_level=logging.ERROR
                )
                with own_sigterm(), start_errors_named(address):
                    if address:
                        aside(start, while_waiting=patience(address, self.reporter))
                    else:
                        start()
                self._embedded = True
        if self.alone and (reachable := exposure()):
            self.reporter.warn(
                f"Ray listens at {reachable}, open to whoever reaches this machine: see docs/SECURITY.md"
            )
        context = DataContext.get_current()
        context.enable_progress_bars = False
        # Ray would hold tasks back, mostly to one at a time, until it knew how large their results are: ours are small.
        context.op_resource_reservation_enabled = False
        context.execution_no_progress_timeout_s = self.config.stalled_after_seconds
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are told by us, once
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        self._started = True

    def check_embedded(self) -> None:
        """To be called now and then while something waits for an embedded Ray.

        Raises:
            RunError: it died.
        """
        if self._embedded and died():
            raise RunError(
                "the Ray cluster is gone",
                where="Ray embedded in this process",
                found="its raylet or its GCS died (memory is the usual reason)",
                next_step="the same command goes on from what is finished",
            )

    def _init_options(self, address: str | None) -> dict[str, Any]:
        if address:
            return {"address": address}
        return {
            "address": "local",
            "num_cpus": self.config.num_cpus or max(os.cpu_count() or 1, self._train_cpus + 2),
            "include_dashboard": False,
            "object_store_memory": self.config.object_store_memory,
        }

    def resources(self) -> tuple[float, float]:
        """CPUs and GPUs of the cluster as it is now; none where Ray does not run (yet)."""
        if not self._started:
            return 0.0, 0.0
        import ray

        tell: Any = ray.cluster_resources  # without types
        try:
            found = tell()
        except ray_errors():  # the cluster is going away; the run's own error tells why
            return 0.0, 0.0
        return float(found.get("CPU", 0)), float(found.get("GPU", 0))

    def shutdown(self) -> None:
        """Leave the cluster, or end the embedded Ray; what is left of a dead one goes with this process."""
        if self._started and self._embedded and not died():
            import ray

            ray.shutdown()
        self._started = False

    def _stream(
        self,
        task: Callable[[Item], Result],
        items: Sequence[Item],
        name: str,
        bundle: dict[str, float],
    ) -> Iterator[tuple[int, Result]]:
        if not items:
            return
        if self.config.executor == "in_process":
            call = _Call(task, name)
            rows = ({"index": index, "item": pickle.dumps(item)} for index, item in enumerate(items))
            yield from map(_unpacked, map(call, rows))
            return
        self.ensure_ray()
        self.await_room([bundle], name)
        resources = _ray_options(bundle)
        call = _Call(task, name)
        done: set[int] = set()
        try:
            for index, result in self._dataset_results(call, items, name, resources):
                done.add(index)
                yield index, result
            return
        except ray_errors() as error:
            refuse_hopeless(error, name)
            count("retries", what="partitions")
            self.reporter.warn(f"{name}: a worker died again and again; finding out at which of the partitions")
        yield from self._one_by_one(call, {i: item for i, item in enumerate(items) if i not in done}, name, resources)

    def _dataset_results(
        self, call: "_Call", items: Sequence[Any], name: str, resources: dict[str, Any]
    ) -> Iterator[tuple[int, Any]]:
        import ray.data

        described = [{"index": index, "item": pickle.dumps(item)} for index, item in enumerate(items)]
        dataset = ray.data.from_items(described, override_num_blocks=min(len(described), _MOST_BLOCKS))
        with warnings.catch_warnings():  # Ray has no other name yet for what it deprecates here
            warnings.filterwarnings("ignore", message=".*ray_remote_args")
            done = dataset.map(call, max_retries=self.config.task_retries, **resources)
        done.set_name(name.replace(" ", "_"))
        yield from map(_unpacked, done.iter_rows())

    def _one_by_one(
        self, call: "_Call", items: dict[int, Any], name: str, resources: dict[str, Any]
    ) -> Iterator[tuple[int, Any]]:
        """A Ray task an item, a few at a time, so that a death is known by the item at which it happened."""
        import ray

        remote = ray.remote(**resources, max_retries=self.config.task_retries)(_call_row)
        shared = ray.put(call)
        waiting = deque(items)
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                index = waiting.popleft()
                running[remote.remote(shared, {"index": index, "item": pickle.dumps(items[index])})] = index
            ready, _ = ray.wait(list(running))
            index = running.pop(ready[0])
            try:
                row = ray.get(ready[0])
            except ray_errors() as error:
                refuse_hopeless(error, name)
                item = str(items[index])[:_ITEM_CHARACTERS]
                raise died_each_time(error, name, item, self.config.task_retries) from error
            yield _unpacked(row)


def _ray_options(bundle: dict[str, float]) -> dict[str, Any]:
    """A bundle as arguments of a Ray task."""
    named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    own = {resource: amount for resource, amount in bundle.items() if resource not in named}
    known = {option: bundle[resource] for resource, option in named.items() if resource in bundle}
    return {"num_cpus": 0, **known, **({"resources": own} if own else {})}


class _Call:
    """Runs a task in a worker; its error comes back as a value, so that it arrives whole and names its input."""

    def __init__(self, task: Callable[[Any], Any], name: str) -> None:
        self._task = task
        self._name = name

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item = pickle.loads(row["item"])
        outcome: tuple[bool, Any]
        try:
            outcome = (False, self._task(item))
        except GradsieveError as error:
            outcome = (True, error)
        except MemoryError as error:
            outcome = (True, _memory_error(self._name, item, error))
        except Exception as error:
            full = disk_error(error, f"{self._name}: {error.filename or ''}") if isinstance(error, OSError) else None
            outcome = (True, full or _defect(self._name, item, error))
        return {"index": row["index"], "result": pickle.dumps(outcome)}


def _unpacked(row: dict[str, Any]) -> tuple[int, Any]:
    failed, value = pickle.loads(row["result"])  # our own task's pickle, never input
    if failed:
        raise value
    return int(row["index"]), value


def _call_row(call: _Call, row: dict[str, Any]) -> dict[str, Any]:
    return call(row)


def _memory_error(name: str, item: object, error: MemoryError) -> RunError:
    return RunError(
        f"memory ran out in a task of {name}",
        where=str(item)[:_ITEM_CHARACTERS],
        found=str(error) or "MemoryError",
        next_step="let fewer tasks run at once (`cluster.num_cpus`), or use nodes with more memory; "
        "the same command goes on from what is finished",
    )


def _defect(name: str, item: object, error: Exception) -> RunError:
    return RunError(
        f"a task of {name} failed",
        where=str(item)[:_ITEM_CHARACTERS],
        found="".join(traceback.format_exception(error, limit=-4)).rstrip(),
        next_step="the same command goes on from what is finished; if it fails again, please report it",
    )


class _ReadTables:
    """Reads listed files where the block is wanted, through storage."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact

    def __call__(self, batch: Any) -> Any:
        import pyarrow as pa

        return pa.concat_tables([self._artifact.read_table(path) for path in batch["path"].to_pylist()])


_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_task_oom_retries": "20",  # without a limit a partition that fits no memory would be tried for ever
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
}
