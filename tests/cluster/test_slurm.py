"""`cluster/slurm.sh` beside stand-ins for Slurm, Ray and the driver, which write down what they are told."""

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm.sh"

STANDINS = {
    "scontrol": 'printf "n1\\nn2\\nn3\\n"',
    "srun": """
while [ "${1#--}" != "$1" ]; do
  case "$1" in --nodelist=*) export NODE=${1#*=};; esac
  shift
done
exec "$@"
""",
    "hostname": "echo 10.0.0.1 172.17.0.1",
    "ray": """
[ "$1" = start ] && trap 'kill "${child:-}" 2> /dev/null; echo "$NODE ended" >> "$LOG"; exit 0' TERM
token=$(stat -c %a "$RAY_AUTH_TOKEN_PATH"):$(wc -c < "$RAY_AUTH_TOKEN_PATH")
echo "$NODE ray $* auth=$RAY_AUTH_MODE token=$token" >> "$LOG"
case "$1" in
  status) [ -z "$HEAD_FAILS" ] && grep -q "ray start --head" "$LOG";;
  start) sleep 60 & child=$!; wait "$child";;
esac
""",
    "python": """
trap 'kill "${child:-}" 2> /dev/null; echo "driver told" >> "$LOG"; sleep 0.3
  echo "driver saved" >> "$LOG"; exit 143' TERM
until [ "$(grep -c " ray start" "$LOG")" -ge 3 ]; do sleep 0.05; done
sleep 0.3
echo "driver $* at $RAY_ADDRESS" >> "$LOG"
[ -n "$DRIVER_WAITS" ] && { sleep 60 & child=$!; wait "$child"; }
exit ${DRIVER_CODE:-0}
""",
}
"""What sleeps is killed with its parent: it holds the pipe that the test reads to its end."""


class Slurm:
    """A machine on which the script runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name, body in STANDINS.items():
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/usr/bin/env bash\n{body}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        known = {
            "PATH": f"{self._folder / 'bin'}:/usr/bin:/bin", "LOG": str(self._folder / "log"), "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "n[1-3]", "HOME": str(self._folder), "GRADSIEVE_SLURM_POLL": "0.1", "NODE": "n1",
            "HEAD_FAILS": "", "DRIVER_WAITS": "",
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments], env={**known, **environment}, text=True, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        _, told = process.communicate(timeout=120)
        return process.returncode, told

    def log(self) -> list[str]:
        path = self._folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def leftovers(self) -> list[str]:
        return [name for name in os.listdir(self._folder) if name.startswith(".gradsieve")]


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


def test_head_comes_first_then_workers_then_the_driver_and_all_is_ended(slurm: Slurm) -> None:
    code, told = slurm.run("my config.yaml", "seed=3")
    assert code == 0, told
    log = slurm.log()
    starts = [line for line in log if " ray start" in line]
    address = "10.0.0.1:24711"
    assert starts[0].startswith("n1 ray start --head --block --node-ip-address=10.0.0.1 --port=24711")
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert f"driver -m pipeline.run my config.yaml seed=3 at {address}" in log
    assert all(f"--address={address}" in line for line in starts[1:])
    assert "n1 ended" in log
    assert slurm.leftovers() == []


def test_every_node_needs_a_token_that_others_cannot_read(slurm: Slurm) -> None:
    assert slurm.run("c.yaml", DRIVER_WAITS="")[0] == 0
    calls = [line for line in slurm.log() if " ray " in line]
    assert calls
    assert all("auth=token token=600:64" in line for line in calls)


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_exit_code_is_the_drivers(code: int, slurm: Slurm) -> None:
    assert slurm.run("c.yaml", DRIVER_CODE=str(code))[0] == code


def test_driver_that_is_told_to_end_is_waited_for_until_it_has_saved(slurm: Slurm) -> None:
    process = slurm.start("c.yaml", DRIVER_WAITS="1")
    deadline = time.monotonic() + 60
    while not any(line.startswith("driver -m") for line in slurm.log()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # the stand-in sets its trap
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    log = slurm.log()
    saved = log.index("driver saved")
    assert log.index("driver told") < saved
    assert all(log.index(line) > saved for line in log if line.endswith(" ended"))
    assert {line for line in log if line.endswith(" ended")} == {"n1 ended", "n2 ended", "n3 ended"}
    assert slurm.leftovers() == []


def test_head_that_does_not_come_up_is_told_and_no_driver_runs(slurm: Slurm) -> None:
    code, told = slurm.run("c.yaml", HEAD_FAILS="1")
    assert code == 1
    assert "Ray's head did not come up on n1 (10.0.0.1:24711)" in told
    assert not [line for line in slurm.log() if line.startswith("driver")]
    assert slurm.leftovers() == []


def test_without_a_configuration_usage_is_told(slurm: Slurm) -> None:
    code, told = slurm.run()
    assert code == 2
    assert "usage: sbatch cluster/slurm.sh CONFIG" in told
    assert slurm.log() == []


def test_what_slurm_is_asked_for_gives_time_to_save() -> None:
    asked = [line.removeprefix("#SBATCH ") for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "--signal=B:TERM@180" in asked
    assert "--requeue" in asked
    assert "--open-mode=append" in asked  # a requeued job does not lose its earlier log
