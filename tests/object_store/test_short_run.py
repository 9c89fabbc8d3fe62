"""Whole runs of a few seconds with everything in buckets: disturbed, doubled, copied, with ends on two servers."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from s3fs import S3FileSystem

from pipeline.crash_points import CRASH_AT, EXIT_CODE
from pipeline.errors import UserError
from pipeline.lease import SWITCH
from pipeline.progress import Reporter
from pipeline.run_record import open_artifacts
from pipeline.storage import Storage, join, relative
from pipeline.verify import Verdict, verify
from tests.object_store.conftest import BUCKET, forget_stores
from tests.object_store.processes import PATIENCE
from tests.object_store.short_run import configuration, contents, make_inputs, run_short, start_short, upload
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.fixtures import Store

INPUTS = f"s3://{BUCKET}/short-run-inputs"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the run reads, on disk."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def wanted(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run on disk ends in."""
    output = tmp_path_factory.mktemp("on-disk") / "run"
    config = output.parent / "short.yaml"
    config.write_text(configuration(str(inputs), str(output)))
    run_short(str(config))
    return contents(str(output), Storage())


@pytest.fixture(scope="module")
def uploaded(rgw_store: Store, inputs: Path) -> Store:
    """The real server, with the inputs in a bucket."""
    rgw_store.make_bucket(BUCKET)
    with rgw_store.signed():
        upload(inputs, INPUTS, rgw_store.storage())
    return rgw_store


@pytest.fixture
def store(uploaded: Store) -> Iterator[Store]:
    """The server as the environment names it: a configuration in a bucket is found before anything says where."""
    forget_stores()
    with uploaded.signed(AWS_ENDPOINT_URL=uploaded.endpoint):
        yield uploaded
    forget_stores()


@pytest.fixture
def config(store: Store, place: str) -> str:
    """The configuration, in the bucket as well; its output is `place`."""
    uri = f"{place}.yaml"
    store.storage().put(uri, configuration(INPUTS, place).encode())
    return uri


@pytest.fixture(scope="module")
def finished(uploaded: Store) -> str:
    """A finished run, its configuration beside it."""
    output = f"s3://{BUCKET}/short-run"
    forget_stores()
    with uploaded.signed(AWS_ENDPOINT_URL=uploaded.endpoint):
        uploaded.storage().put(f"{output}.yaml", configuration(INPUTS, output).encode())
        run_short(f"{output}.yaml")
    return output


def _verify(output: str, store: Store) -> Verdict:
    return verify(output, store.storage(), Reporter())


def test_run_with_all_in_buckets_ends_in_the_contents_of_one_on_disk(
    store: Store, finished: str, wanted: dict[str, str]
) -> None:
    assert contents(finished, store.storage()) == wanted
    verdict = _verify(finished, store)
    assert verdict.differences == []
    assert verdict.unlisted.orphans == []
    assert verdict.unchecked == []
    assert "everything is done already" in run_short(f"{finished}.yaml")


FAULTS: tuple[Fault, ...] = (
    "slow_down",
    "reset_before",
    "internal_error",
    "truncated_body",
    "reset_after",
    "reset_mid_body",
)


def test_run_through_faults_of_the_store_ends_in_the_same_contents(
    store: Store, proxy: FaultProxy, config: str, place: str, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fifth request meets a fault, of each kind in turn."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    each: Iterator[Fault] = itertools.cycle(FAULTS)
    proxy.plan(*(next(each) if number % 5 == 4 else "pass" for number in range(20_000)))
    run_short(config, "storage.max_attempts=6")
    assert len(proxy.requests) > 200
    proxy.calm()
    assert contents(place, store.storage()) == wanted
    assert _verify(place, store).differences == []


@pytest.mark.parametrize("stage", ["training", "shards"])
def test_credentials_that_expire_during_a_run_are_told_and_the_same_command_goes_on(
    stage: str, store: Store, proxy: FaultProxy, config: str, place: str, wanted: dict[str, str]
) -> None:
    through = f"storage.endpoint_url={proxy.endpoint}"
    proxy.always(
        "expired", only=f"/{relative(f's3://{BUCKET}', place)}/{'' if stage == 'shards' else 'store/'}{stage}/"
    )
    with pytest.raises(UserError, match="refused the credentials") as caught:
        run_short(config, through)
    told = str(caught.value)
    assert "ExpiredToken" in told
    assert "renew or correct them and run the same command: it goes on from here" in told
    for secret in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert store.environment[secret] not in told
    assert stage in told
    proxy.calm()
    run_short(config, through)
    assert contents(place, store.storage()) == wanted


POINTS = ("before */store/training/mimic/*/checkpoints/*/manifest-*", "after */shards/00000001.tar")
MORE_POINTS = (
    "before */store/pool/*/manifest.json",
    "after */store/training/mimic/*/checkpoints/*/optimizer-*",
    "after */store/training/mimic/*/ledger/*",
    "after */store/scores/mimic/*/bucket-*",
    "before */store/votes/*/manifest.json",
    "before */manifests/shards.json 2",
    "after */manifests/shards.json",
    "after */run.json 9",
    "before */lease.json",
)


@pytest.mark.parametrize("point", [*POINTS, *(MORE_POINTS if "GRADSIEVE_STORE_RUNS" in os.environ else ())])
def test_killed_run_goes_on_with_the_same_command_and_ends_in_the_same_contents(
    point: str, store: Store, config: str, place: str, wanted: dict[str, str]
) -> None:
    environment = {**store.environment, "AWS_ENDPOINT_URL": store.endpoint, CRASH_AT: point}
    process, _ = start_short(config, (), environment)
    process.join(PATIENCE)
    assert process.exitcode == EXIT_CODE
    run_short(config)
    assert contents(place, store.storage()) == wanted
    assert _verify(place, store).differences == []


def test_two_runs_at_once_without_a_lease_end_in_one_consistent_result(
    store: Store, config: str, place: str, wanted: dict[str, str]
) -> None:
    environment = {**store.environment, "AWS_ENDPOINT_URL": store.endpoint, SWITCH: "off"}
    both = [start_short(config, (), environment) for _ in range(2)]
    told = []
    for process, pipe in both:
        assert pipe.poll(PATIENCE)
        told.append(pipe.recv())
        process.join(PATIENCE)
    assert {process.exitcode for process, _ in both} <= {0, 1}, told
    assert 0 in {process.exitcode for process, _ in both}, told
    again = run_short(config)
    assert contents(place, store.storage()) == wanted, again
    verdict = _verify(place, store)
    assert verdict.differences == []


@pytest.fixture
def copied(store: Store, finished: str) -> str:
    """The finished run, copied to another prefix by another client."""
    client = S3FileSystem(endpoint_url=store.endpoint, skip_instance_cache=True)
    copy = f"{finished}-copied-{uuid4().hex}/elsewhere"  # of its own: other tests leave strays in theirs
    for name in client.find(finished):
        client.copy(name, copy.removeprefix("s3://") + f"s3://{name}".removeprefix(finished))
    return copy


def _listed(output: str, storage: Storage) -> list[str]:
    artifacts = open_artifacts(output, storage).values()
    return [artifact.uri(file.path) for artifact in artifacts for file in artifact.files() if file.bytes]


def test_copied_run_verifies_itself_and_tells_strays_and_orphans(store: Store, copied: str) -> None:
    storage = store.storage()
    assert _verify(copied, store).differences == []
    strays = [join(copied, name) for name in ("shards/00000099.tar", "subset/notes.txt", "report/.hidden")]
    orphans = [join(copied, name) for name in ("store/loose.bin", "store/votes/0123456789abcdef/half.parquet")]
    for uri in (*strays, *orphans):
        storage.put(uri, b"by hand")
    verdict = _verify(copied, store)
    assert sorted(difference.where for difference in verdict.differences) == sorted(strays)
    assert sorted(verdict.unlisted.orphans) == sorted(orphans)


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [_flipped, lambda data: data[:-1], None], ids=["flipped", "cut", "removed"])
def test_damage_to_each_object_of_a_run_is_found_and_named(
    store: Store, copied: str, damage: Callable[[bytes], bytes] | None
) -> None:
    storage = store.storage()
    listed = _listed(copied, storage)
    for uri in listed:
        if damage is None:
            storage.delete(uri)
        else:
            storage.put(uri, damage(storage.read_bytes(uri)))
    found = [difference.where for difference in _verify(copied, store).differences]
    assert sorted(found) == sorted(listed)
