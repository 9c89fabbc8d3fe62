"""A pool and a configuration in a bucket of a real S3 server, and what a run on disk makes of the same pool.

World size and threads are pinned, so every run must end in the same digests, wherever and however often disturbed.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import Artifact
from pipeline.progress import Reporter
from pipeline.run_record import open_artifacts
from pipeline.storage import Storage, join, relative
from stages.pool.demo import make_pool
from tests.crash.scenes import ORDER, TINY, run
from tests.object_store.short_run import contents, upload
from tests.servers.fixtures import Store

BUCKET = "curation"
CONFIG = f"s3://{BUCKET}/tiny.yaml"
PINNED = (
    "reference.base.epochs=1",
    "reference.tune.epochs=1",
    "train.num_workers=2",
    "train.threads_per_rank=1",
    "train.batch_size=16",
    "train.checkpoint_every=20",  # of 64 steps: checkpoints at 20, 32 (an epoch's end), 40, 60 and 64
)
_SAMPLES = 512


@dataclass(frozen=True)
class Bucket:
    """The bucket, and the content that each artifact must have, by name."""

    store: Store
    wanted: dict[str, str]

    def storage(self) -> Storage:
        """Reaches it from this process."""
        return self.store.storage()

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What a node must know to reach it, at its own address by default."""
        return {**self.store.environment, "AWS_ENDPOINT_URL": endpoint or self.store.endpoint}

    def output(self, name: str) -> str:
        """Of a run."""
        return f"s3://{BUCKET}/runs/{name}"

    def words(self, output: str, *more: str) -> tuple[str, ...]:
        """Of a command that makes a run: configuration and overrides."""
        return (CONFIG, f"output={output}", *PINNED, *more)

    def artifacts(self, output: str) -> dict[str, Artifact]:
        """Of a run."""
        with self.store.signed():
            return open_artifacts(output, self.storage())

    def check(self, output: str, *, without: tuple[str, ...] = ()) -> None:
        """Hold all of a run's artifacts against what is wanted, but for those that it was told not to make."""
        with self.store.signed():
            found = contents(output, self.storage())
        assert found == {name: content for name, content in self.wanted.items() if name not in without}

    def copy_until(self, finished: str, output: str, name: str | None) -> None:
        """Give a run the artifacts of all stages of another one that come before one of `ORDER`; None: of all."""
        for before in ORDER[: ORDER.index(name) if name else None]:
            for uri in self.listed(join(finished, "store", before)):
                with self.store.signed():
                    self.storage().put(join(output, relative(finished, uri)), self.storage().read_bytes(uri))

    def listed(self, uri: str, part: str = "") -> list[str]:
        """Objects below a prefix whose path has this part."""
        with self.store.signed():
            return [found.uri for found in self.storage().list(uri) if part in relative(uri, found.uri)]

    def num_checkpoints(self, output: str) -> int:
        """Of the training that mimics."""
        found = self.listed(join(output, "store/training/mimic"), "/checkpoints/")
        return sum(uri.rpartition("/")[2].startswith("manifest-") for uri in found)


def filled_bucket(store: Store, folder: Path) -> Bucket:
    """Make the pool, run it on disk, undisturbed, and put pool and configuration into a bucket."""
    make_pool(str(folder / "pool"), num_samples=_SAMPLES, seed=0, reporter=Reporter())
    output = folder / "local"
    ended = run(folder, output, ("cluster.executor=ray", *PINNED))
    assert ended.code == 0, ended.shown
    store.make_bucket(BUCKET)
    text = TINY.read_text().replace(" pool/", f" s3://{BUCKET}/pool/")
    with store.signed():
        upload(folder / "pool", f"s3://{BUCKET}/pool", store.storage())
        store.storage().put(CONFIG, text.encode())
    return Bucket(store, contents(str(output), Storage()))
