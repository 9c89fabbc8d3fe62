"""What a stage is: a config, declared inputs and output, a plan, and one `run`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from pipeline.artifact import Artifact, ArtifactWriter, Counts, FileEntry
from pipeline.config_base import Config
from pipeline.engine import Engine
from pipeline.progress import Reporter
from pipeline.reuse import Entries
from pipeline.schema import Schema
from pipeline.storage import Stat, Storage
from pipeline.traffic import Traffic

ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True)
class External:
    """Input from outside the run that a stage declares: a file, or all files below a folder."""

    uri: str
    identity: bool = True
    """Whether its files enter the fingerprint; False where an input artifact vouches for the content."""
    suffix: str = ""
    """Only files with this ending."""
    missing: str = "check the path in the config"
    """What to do if nothing is there, shown to the user."""


@dataclass(frozen=True)
class ExternalFiles:
    """An external input as listed when the graph was built."""

    uri: str
    files: tuple[Stat, ...]


@dataclass(frozen=True)
class Size:
    """How large an artifact is, known or planned."""

    rows: int
    bytes: int
    buckets: int | None = None
    """Uid buckets of its tables, where they are known to differ from what so many rows usually have."""


@dataclass(frozen=True)
class StagePlan:
    """What a stage would do; unknowns are None."""

    output: Size
    partitions: int = 1
    """Tasks in all passes together, or ranks."""
    peak_task_bytes: int = 0
    steps: int | None = None
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    """Of computing alone; what a task waits for the store comes on top, by its requests."""
    note: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    """What is asked of the store."""
    private_bytes: int = 0
    """Written besides the output: files between two passes, checkpoints."""
    driver_bytes: int = 0
    """What the driver holds at most, descriptions and results of tasks among it."""
    num_files: int = 1
    """In the manifest."""


@dataclass(frozen=True)
class StageContext:
    """All that a stage may touch while it runs."""

    inputs: Mapping[str, Artifact]
    """By role; several artifacts of one kind have roles `kind/name`."""
    external: Mapping[str, ExternalFiles]
    output: ArtifactWriter
    storage: Storage
    """Limited to inputs, external inputs, output and the entries that the stage keeps."""
    engine: Engine
    reporter: Reporter
    seed: int
    entries: Mapping[str, Entries] = field(default_factory=dict)
    """By kind: results of single tasks that earlier runs left in the store, see `Stage.keeps`."""


@dataclass(frozen=True)
class StageResult:
    """What a stage made; the runner checks the counts and commits the manifest."""

    files: tuple[FileEntry, ...]
    summary: Mapping[str, Any] = field(default_factory=dict)
    counts: Counts | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds and other facts of this making; not part of the content."""
    entries: tuple[str, ...] = ()
    """Names of the entries that were used or made: they stay as long as this artifact does."""


class Stage(ABC, Generic[ConfigT]):
    """One step of the pipeline; makes one artifact."""

    version: ClassVar[int] = 1
    """Raised whenever the same input and config give other bytes than before."""
    takes: ClassVar[Mapping[str, Schema]]
    """Role -> columns it reads; a role `scores` stands for every input `scores/<name>`."""
    gives: ClassVar[Schema]

    def __init__(self, config: ConfigT) -> None:
        """Keep the stage's own config block; nothing is read yet."""
        self.config = config

    @property
    def keeps(self) -> tuple[str, ...]:
        """Kinds of entries that its tasks look up and leave in the store, see `pipeline.reuse`."""
        return ()

    def external(self) -> Mapping[str, External]:
        """Inputs from outside the run, by role."""
        return {}

    def preflight(self, external: Mapping[str, ExternalFiles], storage: Storage) -> None:
        """Refuse what cannot work before any stage has started.

        Raises:
            UserError: the config does not fit its external inputs.
        """
        del external, storage

    @abstractmethod
    def plan(self, inputs: Mapping[str, Size], rates: Mapping[str, float]) -> StagePlan:
        """Foretell size, memory and cost from the sizes of the inputs (roles as in `takes`)."""

    @abstractmethod
    def run(self, context: StageContext) -> StageResult:
        """Do the work: read `context.inputs`, put parts through `context.output`, return their entries."""
