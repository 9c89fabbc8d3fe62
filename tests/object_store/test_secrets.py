"""A run with its ends on two servers, each with its own credentials; and no secret in anything that it leaves."""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.cli.app import main
from pipeline.engine import Engine
from pipeline.errors import UserError
from pipeline.storage import Storage, StorageConfig, join
from tests.object_store.conftest import forget_stores
from tests.object_store.short_run import configuration, contents, make_inputs, run_short, upload
from tests.servers.fault_proxy import FaultProxy
from tests.servers.fixtures import Store

POOL_BUCKET, OUTPUT_BUCKET, CONFIG_BUCKET = "pool-apart", "output-apart", "config-apart"
INPUTS, OUTPUT = f"s3://{POOL_BUCKET}/inputs", f"s3://{OUTPUT_BUCKET}/run"
POOL_KEY, POOL_SECRET, POOL_TOKEN = "AKPOOLPOOLPOOLPOOL", "secret-of-the-pool/+4711", "token-of-the-pool-0815"
OUTPUT_KEY, OUTPUT_SECRET = "AKOUTPUTOUTPUTOUTP", "secret-of-the-output/+4712"


class Apart(NamedTuple):
    """A finished run whose pool lies on one server and whose output on another."""

    secrets: list[str]
    pool: FaultProxy
    output: FaultProxy
    config: str
    settings: tuple[str, ...]
    told: str
    """All that the run printed."""
    pickled: list[bytes]
    """All that would have been sent to workers."""
    wanted: dict[str, str]
    """What a run on disk ends in."""

    def storage(self) -> Storage:
        """Reaches the output."""
        return Storage(StorageConfig(endpoint_url=self.output.endpoint))


class Recording(Engine):
    """An engine that keeps the bytes of every task and item."""

    pickled: list[bytes]

    def map(self, task: Callable[[Any], Any], items: Any, **options: Any) -> list[Any]:
        self.pickled.append(pickle.dumps(task))
        self.pickled.extend(pickle.dumps(item) for item in items)
        return super().map(task, items, **options)


@pytest.fixture(scope="module")
def environment(rgw_store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Credentials of the configuration's bucket in variables, those of pool and output in profiles."""
    folder = tmp_path_factory.mktemp("credentials")
    rgw_store.add_key(OUTPUT_KEY, OUTPUT_SECRET)
    (folder / "credentials").write_text(
        f"[for-pool]\naws_access_key_id = {POOL_KEY}\naws_secret_access_key = {POOL_SECRET}\n"
        f"aws_session_token = {POOL_TOKEN}\n"
        f"[for-output]\naws_access_key_id = {OUTPUT_KEY}\naws_secret_access_key = {OUTPUT_SECRET}\n"
    )
    return {
        "AWS_ENDPOINT_URL": rgw_store.endpoint,
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="module")
def apart(
    rgw_store: Store, moto_store: Store, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Apart]:
    folder = tmp_path_factory.mktemp("apart")
    make_inputs(folder / "inputs")
    (folder / "on-disk.yaml").write_text(configuration(str(folder / "inputs"), str(folder / "on-disk")))
    run_short(str(folder / "on-disk.yaml"))
    for store, bucket in ((moto_store, POOL_BUCKET), (rgw_store, OUTPUT_BUCKET), (rgw_store, CONFIG_BUCKET)):
        store.make_bucket(bucket)
    with moto_store.signed():
        upload(folder / "inputs", INPUTS, moto_store.storage())
    config = f"s3://{CONFIG_BUCKET}/short.yaml"
    forget_stores()
    with FaultProxy(moto_store.port) as pool, FaultProxy(rgw_store.port) as output:
        places = {
            POOL_BUCKET: {"endpoint_url": pool.endpoint, "profile": "for-pool"},
            OUTPUT_BUCKET: {"endpoint_url": output.endpoint, "profile": "for-output"},
        }
        settings = (f"storage.buckets={json.dumps(places)}",)
        pickled: list[bytes] = []
        with pytest.MonkeyPatch.context() as patch, rgw_store.signed(**environment):
            rgw_store.storage().put(config, configuration(INPUTS, OUTPUT).encode())
            Recording.pickled = pickled
            patch.setattr("pipeline.curation.Engine", Recording)
            patch.setattr("stages.train.stage.launch", _recording(pickled))
            told = run_short(config, *settings)
            pickled.append(pickle.dumps(Storage(StorageConfig.model_validate({"buckets": places}))))
            wanted = contents(str(folder / "on-disk"), Storage())
            secrets = [POOL_SECRET, POOL_TOKEN, OUTPUT_SECRET, rgw_store.environment["AWS_SECRET_ACCESS_KEY"]]
            yield Apart(secrets, pool, output, config, settings, told, pickled, wanted)
    forget_stores()


def _recording(pickled: list[bytes]) -> Callable[..., None]:
    from stages.train.launch import launch

    def record(spec: object, engine: Engine, reporter: Any) -> None:
        pickled.append(pickle.dumps(spec))
        launch(spec, engine, reporter)  # type: ignore[arg-type]

    return record


@pytest.fixture
def by_profile(apart: Apart, rgw_store: Store, environment: dict[str, str]) -> Iterator[Storage]:
    """Reaches the output as a person would: its endpoint given, its profile in the environment."""
    with rgw_store.signed(**environment, AWS_PROFILE="for-output"):
        del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]  # which would come before the profile
        forget_stores()
        yield apart.storage()
    forget_stores()


def test_pool_and_output_on_two_servers_are_reached_each_with_its_own_credentials(
    apart: Apart, by_profile: Storage
) -> None:
    assert contents(OUTPUT, by_profile) == apart.wanted
    assert apart.pool.access_keys == {POOL_KEY}
    assert apart.output.access_keys == {OUTPUT_KEY}
    assert any(request.startswith("GET") for request in apart.pool.requests)
    assert not any(request.startswith(("PUT", "POST", "DELETE")) for request in apart.pool.requests)
    assert all(POOL_BUCKET not in request for request in apart.output.requests)
    assert all(OUTPUT_BUCKET not in request for request in apart.pool.requests)


def test_no_secret_is_in_anything_that_a_run_writes_prints_or_sends(
    apart: Apart, by_profile: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every object of the output, every line, every pickle, and what the commands that look at a run print."""
    found = {"told by the run": apart.told.encode(), **{f"pickle {n}": p for n, p in enumerate(apart.pickled)}}
    objects = by_profile.list(OUTPUT, hidden=True)
    assert len(objects) > 50
    found |= {stat.uri: by_profile.read_bytes(stat.uri) for stat in objects}
    for command in (["status", OUTPUT], ["verify", OUTPUT], ["explain", OUTPUT, "0"]):
        with pytest.raises(SystemExit) as leave:
            main([*command, "--endpoint-url", apart.output.endpoint])
        shown = capsys.readouterr()
        assert leave.value.code == (2 if "explain" in command else 0), shown.err
        assert "not checked" not in shown.out  # the takedown list lies with the pool, on the other server
        found[" ".join(command)] = (shown.out + shown.err).encode()
    assert len(apart.pickled) > 30
    record = json.loads(by_profile.read_bytes(join(OUTPUT, "run.json")))
    assert record["config"]["storage"]["buckets"][POOL_BUCKET]["profile"] == "for-pool"
    for place, data in found.items():
        for secret in apart.secrets:
            assert secret.encode() not in data, place


def test_no_secret_is_in_any_error_of_a_run(apart: Apart, rgw_store: Store, environment: dict[str, str]) -> None:
    """Credentials at fault on either side, where the store's own answer repeats what was signed."""
    wrong = {"for-pool": "for-output", "for-output": "for-pool"}
    for profile, other in wrong.items():
        setting = apart.settings[0].replace(f'"{profile}"', f'"{other}"')
        if profile == "for-pool":  # that server takes any key
            apart.pool.always("expired")
        with rgw_store.signed(**environment):
            forget_stores()
            with pytest.raises(UserError, match="refused the credentials") as caught:
                run_short(apart.config, setting, f"output=s3://{OUTPUT_BUCKET}/never")
        apart.pool.calm()
        shown = f"{caught.value} {caught.value!r} {pickle.dumps(caught.value)!r} {caught.value.__context__!r}"
        for secret in apart.secrets:
            assert secret not in shown
    forget_stores()


SECRET = "p4ssw0rd-of-somebody"


@pytest.mark.parametrize(
    "override",
    [
        f"storage.endpoint_url=http://user:{SECRET}@127.0.0.1:1",
        f"storage.endpoint_url=http://127.0.0.1:1/?token={SECRET}",
        f"storage.buckets={{x: {{endpoint_url: 'https://user:{SECRET}@host'}}}}",
        f"storage.secret_access_key={SECRET}",
        f"storage.buckets={{x: {{secret: {SECRET}}}}}",
        f"pool.path=s3://user:{SECRET}@bucket/pool",
    ],
)
def test_secret_in_a_configuration_is_refused_and_not_repeated(
    override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.yaml").write_text(configuration(str(tmp_path), str(tmp_path / "run")))
    with pytest.raises(SystemExit) as leave:
        main(["run", str(tmp_path / "short.yaml"), override])
    shown = capsys.readouterr()
    assert leave.value.code == 2
    assert SECRET not in shown.out + shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["variable", "profile"])
def test_secret_in_an_endpoint_from_outside_is_refused_and_not_repeated(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = f"http://user:{SECRET}@127.0.0.1:1"
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    if place == "variable":
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    else:
        (tmp_path / "config").write_text(f"[default]\nendpoint_url = {endpoint}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    forget_stores()
    with pytest.raises(SystemExit) as leave:
        main(["run", "s3://any-bucket/any.yaml"])
    forget_stores()
    shown = capsys.readouterr()
    assert leave.value.code == 2
    assert "an endpoint holds credentials" in shown.err
    assert ("AWS_ENDPOINT_URL" if place == "variable" else "profile") in shown.err
    assert SECRET not in shown.out + shown.err
    assert "Traceback" not in shown.err
