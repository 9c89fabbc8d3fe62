"""Runs as jobs of a real cluster: logs, exit codes, lost connections, stopping, and what is refused."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.job_submission import JobDetails

from cluster.jobs import Jobs, _exit_code, _Log
from pipeline.errors import RunError, UserError
from pipeline.progress import Reporter
from stages.pool.demo import make_pool
from tests.cluster.submitting import Submitted, Submitter
from tests.crash.nodes import Nodes, free_port, nodes
from tests.crash.scenes import ROOT, TINY, states
from tests.long_runs import only_in
from tests.servers.relay import Relay

EXECUTOR = "cluster.executor=in_process"


@given(st.text(max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_log_read_again_and_again_from_its_start_is_shown_once(text: str, ends: list[int]) -> None:
    shown: list[str] = []
    log = _Log(shown.append)
    for end in [*ends, len(text)]:
        position = 0
        for piece in (text[: end // 2], text[end // 2 : end]):
            log.take(piece, position)
            position += len(piece)
    log.take(text, 0)
    assert "".join(shown) == text


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", -9, 137), ("FAILED", 137, 137), ("STOPPED", -9, 143),
        ("STOPPED", None, 143),
    ],
)  # fmt: skip
def test_exit_code_is_the_drivers_own_and_a_shells_for_one_that_a_signal_ended(
    status: str, driver: int | None, code: int
) -> None:
    info = JobDetails(type="SUBMISSION", status=status, entrypoint="x", driver_exit_code=driver)
    assert _exit_code(info) == code


def test_driver_that_never_started_is_an_error_that_tells_why() -> None:
    info = JobDetails(
        type="SUBMISSION", status="FAILED", entrypoint="x", submission_id="a-job", message="no such runtime_env"
    )
    with pytest.raises(RunError, match=r"(?s)lost the driver.*a-job.*no such runtime_env"):
        _exit_code(info)


def test_cluster_that_does_not_answer_is_named_with_what_to_do() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=rf"(?s){address}.*RAY_API_SERVER_ADDRESS.*RAY_AUTH"):
        Jobs(address)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A cluster with a dashboard, whose jobs find this checkout and this interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("OMP_NUM_THREADS", "1")
        # One node: two on one machine share a folder for working directories, and delete each other's.
        with nodes(workers=0, head_cpus=4, dashboard=True) as made:
            yield made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool, and in `work/` the configuration that travels with jobs."""
    folder = tmp_path_factory.mktemp("jobs")
    make_pool(str(folder / "pool"), num_samples=256, seed=0, reporter=Reporter())
    (folder / "work").mkdir()
    (folder / "work/tiny.yaml").write_text(TINY.read_text().replace("pool/", f"{folder}/pool/"))
    return folder


@pytest.fixture(scope="module")
def submitter(place: Path, head: Nodes) -> Submitter:
    return Submitter(place / "work", head.dashboard)


def _wait_for(path: Path, submitted: Submitted) -> None:
    submitted.wait_until(path.exists, str(path))


MORE = only_in("make cluster-test")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
class TestOnACluster:
    @MORE
    def test_run_is_followed_to_its_end_and_known_by_its_metadata(self, submitter: Submitter) -> None:
        output = submitter.place / "followed"
        code, shown = submitter.run("tiny.yaml", f"output={output}", "evaluate=off", EXECUTOR, "--owner", "ada")
        assert code == 0, shown
        assert shown.count("pool: done in") == 1
        assert states(output)["shards"] == "done"
        (job,) = [job for job in submitter.jobs()._client.list_jobs() if str(output) in str(job.metadata)]
        assert job.metadata == {"run": str(output), "config": "tiny.yaml", "owner": "ada"}
        assert job.submission_id in shown

    @MORE
    def test_stages_run_on_the_nodes_of_the_cluster(self, submitter: Submitter) -> None:
        output = submitter.place / "on_nodes"
        code, shown = submitter.run("tiny.yaml", f"output={output}", "evaluate=off", "--until", "reference")
        assert code == 0, shown
        assert states(output)["training/base"] == "done"

    def test_failure_ends_with_the_drivers_exit_code_and_its_message_last(self, submitter: Submitter) -> None:
        code, shown = submitter.run("tiny.yaml", f"output={submitter.place / 'x'}", "pool.path=/nowhere", EXECUTOR)
        assert code == 2, shown
        assert "input is not there" in shown.rpartition("error:")[2]
        assert "/nowhere" in shown.rpartition("error:")[2]
        assert " INFO " not in shown.rpartition("error:")[2]  # nothing of Ray's own behind it

    @MORE
    def test_detached_run_is_left_alone_and_followed_later(self, submitter: Submitter) -> None:
        output = submitter.place / "detached"
        words = ("tiny.yaml", f"output={output}", "evaluate=off", EXECUTOR)
        code, shown = submitter.run(*words, "--detach")
        assert code == 0, shown
        assert "pool: done" not in shown
        job = shown.partition("submitted ")[2].partition(";")[0]
        code, shown = submitter.run("--follow", job)
        assert code == 0, shown
        assert shown.count("pool: done in") == 1
        assert states(output)["shards"] == "done"

    @MORE
    def test_second_submission_on_one_output_ends_with_3_and_the_first_goes_on(self, submitter: Submitter) -> None:
        output = submitter.place / "twice"
        words = ("tiny.yaml", f"output={output}", "evaluate=off", EXECUTOR)
        first = submitter.start(*words)
        _wait_for(output / "run.json", first)
        code, shown = submitter.run(*words)
        assert code == 3, shown
        code, shown = first.end()
        assert code == 0, shown

    @MORE
    def test_interrupted_follower_leaves_the_job_and_a_stopped_one_ends_with_143(self, submitter: Submitter) -> None:
        output = submitter.place / "stopped"
        words = ("tiny.yaml", f"output={output}", "evaluate=off", EXECUTOR, "train.epochs=15")
        submitted = submitter.start(*words)
        _wait_for(output / "run.json", submitted)
        submitted.interrupt()
        code, shown = submitted.end()
        assert code == 130, shown
        assert "runs on without this terminal" in shown
        assert "Traceback" not in shown
        job = shown.partition("submitted ")[2].partition(";")[0]
        follower = submitter.start("--follow", job)
        _wait_for(output / "store/training", follower)
        submitter.jobs().stop(job)
        code, shown = follower.end()
        assert code == 143, shown
        assert "the same command goes on from here" in shown

    def test_connection_that_is_lost_is_taken_up_again_and_no_line_is_shown_twice(self, submitter: Submitter) -> None:
        output = submitter.place / "relayed"
        relay = Relay.to_port(int(submitter.address.rpartition(":")[2]))
        words = ("tiny.yaml", f"output={output}", "evaluate=off", EXECUTOR)
        submitted = submitter.start(*words, address=f"http://127.0.0.1:{relay.port}")
        _wait_for(output / "run.json", submitted)
        relay.cut(seconds=3)
        code, shown = submitted.end()
        relay.close()
        assert code == 0, shown
        assert "is lost; trying again" in shown
        lines = [line for line in shown.splitlines() if "done in" in line]
        assert len(lines) == len(set(lines)) > 8

    def test_job_that_is_not_there_is_named(self, submitter: Submitter) -> None:
        code, shown = submitter.run("--follow", "gradsieve-nothing")
        assert code == 2, shown
        assert "no such job" in shown
        assert "gradsieve-nothing" in shown

    def test_cluster_out_of_reach_for_too_long_ends_with_how_to_go_on(self, submitter: Submitter) -> None:
        relay = Relay.to_port(int(submitter.address.rpartition(":")[2]))
        jobs = Jobs(f"http://127.0.0.1:{relay.port}", patience=1.0)
        threading.Thread(target=relay.cut, kwargs={"seconds": 30}, daemon=True).start()
        time.sleep(0.2)
        with pytest.raises(RunError, match=r"(?s)cannot be reached.*--follow some-job"):
            jobs.follow("some-job", lambda _: None, lambda _: None)
        relay.close()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["tiny.yaml", "output=runs/x"], "output is a path relative to a folder"),
        (["tiny.yaml", "output=s3://b/x", "pool.path=shards"], "pool.path is a path relative"),
        (["/etc/hostname", "output=s3://b/x"], "does not travel with the job"),
        (["absent.yaml", "output=s3://b/x"], "no such configuration"),
        (["tiny.yaml", "train.batchsize=3"], "did you mean"),
        ([], "a configuration, or --follow JOB"),
    ],
)
def test_what_cannot_run_there_is_refused_before_anything_is_sent(
    words: list[str], wanted: str, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.read_text().replace("pool/", "/data/pool/"))
    command = [sys.executable, "-m", "pipeline.cli.app", "submit", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert told.returncode == 2, told.stderr
    assert wanted in told.stderr
