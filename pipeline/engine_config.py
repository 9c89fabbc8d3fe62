"""Where the work runs and what its processes reserve: the `cluster` block, none of it part of a fingerprint."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config_base import Config, placement

_GIB = 1 << 30


class RoleConfig(Config):
    """What every process of a role needs beside CPUs and GPUs; nodes are told apart by it."""

    resources: dict[str, Annotated[float, Field(gt=0)]] = placement(default_factory=dict)
    """Amounts of resources of your own, as nodes declare them (`ray start --resources`), such as `{cpu_node: 0.01}`."""
    memory: int | None = placement(None, gt=0)
    """Bytes that a process reserves."""

    @model_validator(mode="after")
    def _own_names(self) -> "RoleConfig":
        known = {"CPU", "GPU", "memory", "object_store_memory"} & set(self.resources)
        if known:
            raise ValueError(f"resources: {sorted(known)} are reserved by the stages themselves; name one of your own")
        return self

    def bundle(self, *, num_cpus: float, num_gpus: float = 0.0, memory: int | None = None) -> dict[str, float]:
        """All that one process reserves, as Ray names it."""
        wanted = {"CPU": num_cpus, "GPU": num_gpus, "memory": float(self.memory or memory or 0), **self.resources}
        return {resource: amount for resource, amount in wanted.items() if amount}


class ClusterConfig(Config):
    """Where the work runs; no part of any fingerprint."""

    address: str | None = placement(None)
    """Ray cluster to connect to; without it RAY_ADDRESS, or Ray embedded in this process."""
    auth_mode: Literal["disabled", "token"] | None = placement(None)
    """Ray's authentication; by default `disabled` when embedded on loopback, `token` otherwise."""
    num_cpus: int | None = placement(None, gt=0)
    """Logical CPUs of an embedded Ray; by default what the trainer and one task need, at least the machine's."""
    object_store_memory: int = placement(_GIB // 2, gt=0)
    """Bytes of shared memory of an embedded Ray; descriptions are small, so little is needed."""
    executor: Literal["ray", "in_process"] = placement("ray")
    """`in_process` runs the data stages without Ray, one partition after the other: same bytes."""
    trainers: RoleConfig = placement(default_factory=RoleConfig)
    """The ranks that train, and the check of the reference."""
    kernels: RoleConfig = placement(default_factory=RoleConfig)
    """Tasks of the data stages."""
    aggregation: RoleConfig = placement(default_factory=RoleConfig)
    """The one task that fits the label model."""
    wait_for_nodes_seconds: float = placement(900.0, ge=0)
    """How long a stage waits for nodes that an autoscaler has to start."""
    task_retries: int = placement(3, ge=0)
    """How often a task is tried again after its worker or node was lost."""
    stalled_after_seconds: float = placement(1800.0, gt=0)
    """Seconds without a finished task after which a stage stops: raise it where single tasks take longer."""
    grace_seconds: float = placement(25.0, ge=0)
    """Seconds that a training told to end (SIGTERM) may take to save itself; whoever stops it must wait as long."""

    def without_effect(self) -> list[str]:
        """See `Config`."""
        if self.executor == "in_process":
            ignored = self.is_set(
                "address", "auth_mode", "num_cpus", "object_store_memory", "task_retries", "trainers", "kernels",
                "aggregation", "wait_for_nodes_seconds",
            )  # fmt: skip
            return [f"{name}: no effect with `executor: in_process`" for name in ignored]
        if self.address is None:
            return []
        ignored = self.is_set("num_cpus", "object_store_memory")
        return [f"{name}: no effect on a cluster that runs already" for name in ignored]
