"""What no manifest lists: strays in deliverables, orphans elsewhere, private files, and what is none of them."""

import shutil
from pathlib import Path

import pytest

from pipeline.artifact import Artifact, ArtifactWriter, Manifest
from pipeline.lease import held
from pipeline.progress import Reporter
from pipeline.storage import Storage, StorageConfig, join
from pipeline.verify_unlisted import Unlisted, find_unlisted
from tests.servers.fixtures import Store, moto_store

__all__ = ["moto_store"]
VOTES = f"store/votes/{'0' * 16}"
SUBSET = "subset"


class Run:
    """An output with one artifact in the store, `votes`, and one deliverable, `subset`."""

    def __init__(self, output: str, storage: Storage, store: str | None = None) -> None:
        self.output, self.storage = output, storage
        store = store or join(output, "store")
        self.artifacts = {
            "votes": self.make("votes", join(store, "votes", "0" * 16), "manifest.json"),
            SUBSET: self.make(SUBSET, join(output, SUBSET), f"../manifests/{SUBSET}.json"),
        }
        storage.put(join(output, "run.json"), b"{}")
        storage.put(join(output, "lease.json"), b"{}")

    def make(self, name: str, root: str, manifest_path: str) -> Artifact:
        """An artifact with two files."""
        writer = ArtifactWriter(root, self.storage)
        files = (writer.put_bytes("a.bin", b"a"), writer.put_bytes("folder/b.bin", b"b"))
        manifest = Manifest(name, "f" * 64, {}, files, {})
        place, path = root, manifest_path
        while path.startswith("../"):
            place, path = place.rpartition("/")[0], path.removeprefix("../")
        self.storage.put(join(place, path), manifest.to_json())
        return Artifact(root, manifest, self.storage)

    def add(self, *paths: str) -> list[str]:
        """Put files below the output; their URIs."""
        uris = [join(self.output, path) for path in paths]
        for uri in uris:
            self.storage.put(uri, b"stray")
        return sorted(uris)

    def found(self) -> Unlisted:
        """What is unlisted."""
        return find_unlisted(self.output, self.artifacts, ["votes", SUBSET, "report"], self.storage)


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """On disk and in a bucket."""
    if request.param == "local":
        return Run(str(tmp_path / "run"), Storage())
    store: Store = request.getfixturevalue("moto_store")
    store.make_bucket("unlisted")
    request.getfixturevalue("monkeypatch").setenv("AWS_ACCESS_KEY_ID", "any")
    request.getfixturevalue("monkeypatch").setenv("AWS_SECRET_ACCESS_KEY", "any")
    return Run(f"s3://unlisted/{tmp_path.name}", Storage(StorageConfig(endpoint_url=store.endpoint)))


def test_whole_run_has_nothing_unlisted(run: Run) -> None:
    assert run.found() == Unlisted()


def test_files_in_a_deliverable_are_strays_hidden_ones_too(run: Run) -> None:
    added = run.add("subset/notes.txt", "subset/folder/c.bin", "subset/work/d.bin", "subset/manifest.json", "subset/.x")
    found = run.found()
    assert sorted(uri for _, uri in found.strays) == added
    assert {name for name, _ in found.strays} == {SUBSET}
    assert found.orphans == []


def test_what_a_killed_put_leaves_in_a_deliverable_is_an_orphan(run: Run) -> None:
    added = run.add("subset/.a.bin.k3_9xq0z", f"subset/folder/.conditions-{'5' * 32}")
    assert (run.found().strays, sorted(run.found().orphans)) == ([], added)


def test_files_of_the_store_are_orphans_and_those_in_private_folders_are_counted(run: Run) -> None:
    orphans = run.add(
        f"{VOTES}/zombie.bin",
        f"{VOTES}/folder/c.bin",
        f"store/votes/{'1' * 16}/half.bin",  # of a run that never committed
        "store/loose.bin",
        "notes.txt",
        "manifests/votes.json",
        "manifests/notes.txt",
    )
    run.add(f"{VOTES}/checkpoints/step-1/w.bin", f"{VOTES}/parts/p", f"store/votes/{'1' * 16}/work/w.json")
    found = run.found()
    assert sorted(found.orphans) == orphans
    assert found.num_private == 3
    assert found.strays == []


def test_entries_of_the_store_are_no_orphans_but_what_a_dead_task_left_is(run: Run) -> None:
    run.make("entries/pool/shards", join(run.output, "store/entries/pool/shards", "3" * 16), "manifest.json")
    assert run.found() == Unlisted(num_private=3), "two files and the manifest"
    (half,) = run.add(f"store/entries/pool/shards/{'4' * 16}/samples-0.run")
    assert run.found() == Unlisted(orphans=[half], num_private=3)


def test_artifacts_of_other_configurations_are_no_orphans_but_what_lies_beside_their_files_is(run: Run) -> None:
    run.make("votes", join(run.output, "store/votes", "2" * 16), "manifest.json")
    run.make("evaluation", join(run.output, "evaluation"), "../manifests/evaluation.json")
    assert run.found() == Unlisted()
    (beside,) = run.add(f"store/votes/{'2' * 16}/more.bin")
    (stray,) = run.add("evaluation/more.bin")
    assert run.found().orphans == [beside]
    assert run.found().strays == [("evaluation", stray)]


def test_files_of_what_has_no_readable_manifest_are_left_to_the_difference_that_tells_so(run: Run) -> None:
    run.add("report/index.html", "report/summary.json")  # the stage is not finished
    run.storage.put(join(run.output, VOTES, "manifest.json"), b"damaged")
    del run.artifacts["votes"]
    run.storage.put(join(run.output, "manifests/subset.json"), b'{"replacing":[]}')
    del run.artifacts[SUBSET]
    assert run.found() == Unlisted()


def test_shared_store_is_looked_at_where_this_run_has_artifacts_alone(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    run = Run(str(tmp_path / "run"), Storage(), shared)
    (tmp_path / "shared/votes" / ("1" * 16)).mkdir(parents=True)
    (tmp_path / "shared/votes" / ("1" * 16) / "of a run at work").write_bytes(b"x")
    (tmp_path / "shared/votes" / ("0" * 16) / "zombie").write_bytes(b"x")
    assert run.found().orphans == [str(tmp_path / "shared/votes" / ("0" * 16) / "zombie")]


def test_locks_of_the_run_are_its_own(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"), Storage())
    with held(run.output, Storage(), Reporter()):
        run.storage.compare_and_swap(join(run.output, "manifests/other.json"), None, b"x")
        run.storage.delete(join(run.output, "manifests/other.json"))
    assert {path.name for path in tmp_path.rglob(".*")} == {".run.lock", ".swap.lock"}
    assert run.found() == Unlisted()


def test_output_below_a_folder_named_like_a_fingerprint_is_seen_as_any_other(tmp_path: Path) -> None:
    run = Run(str(tmp_path / ("a" * 16) / "run"), Storage())
    orphans = run.add("notes.txt", "store/loose.bin")
    assert run.found().orphans == orphans
    shutil.rmtree(tmp_path / ("a" * 16))
