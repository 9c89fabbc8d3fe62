"""The files for Ray's cluster launcher: accepted by Ray, and safe by what they say."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster"


@pytest.fixture(params=["aws", "gcp"])
def text(request: pytest.FixtureRequest) -> str:
    return (CLUSTER / f"{request.param}.yaml").read_text()


@pytest.fixture
def config(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_ray_would_refuse_a_typo(config: dict[str, Any]) -> None:
    config["idle_timeout_minuts"] = config.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        validate_config(prepare_config(config))


def test_nothing_is_left_to_the_launchers_own_commands(config: dict[str, Any]) -> None:
    """They install the newest Ray from elsewhere and open the dashboard to all."""
    before = {key: list(value) for key, value in config.items() if key.endswith("_commands")}
    kinds = {"initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"}
    assert {key.removesuffix("_commands") for key in before} == kinds
    prepared = prepare_config(config)
    for key, commands in before.items():
        joined = before["setup_commands"] if key in {"head_setup_commands", "worker_setup_commands"} else []
        assert prepared[key] == [*joined, *commands]
    assert "0.0.0.0" not in str(prepared)


def test_dashboard_listens_at_loopback_and_a_token_is_asked_for(config: dict[str, Any]) -> None:
    head, worker = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    starts = [command for command in head + worker if " start " in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token " in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"][f"/home/{config['auth']['ssh_user']}/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["provider"]["use_internal_ips"] is True


def test_head_is_no_spot_node_and_takes_no_task(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    spot = {name for name, kind in types.items() if re.search("'spot'|SPOT", str(kind))}
    assert spot == {"gpu_spot"}
    assert "--num-cpus=0" in str(config["head_start_ray_commands"])


def test_spot_nodes_come_first_and_all_workers_go_without_work(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types["gpu_spot"]["priority"] > types["gpu"]["priority"]
    assert types["gpu_spot"]["resources"] == types["gpu"]["resources"]
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    assert all(kind["min_workers"] == 0 for kind in workers)
    assert sum(kind["max_workers"] for kind in workers) >= config["max_workers"] >= 16


def test_rights_come_from_roles_and_no_key_is_written_down(text: str, config: dict[str, Any]) -> None:
    for kind in config["available_node_types"].values():
        assert {"IamInstanceProfile", "serviceAccounts"} & kind["node_config"].keys()
    assert not re.search(r"AKIA|aws_secret|private_key|KeyName", text)


def test_packages_are_those_that_were_tested(config: dict[str, Any]) -> None:
    installs = [line for key in ("setup_commands", "head_setup_commands") for line in config[key] if "install" in line]
    assert installs
    assert all("-c constraints.txt" in line or re.search(r"\w==\d", line) for line in installs)


def test_commands_are_shell(config: dict[str, Any]) -> None:
    for key, commands in config.items():
        for command in commands if key.endswith("_commands") else ():
            checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, timeout=60)
            assert checked.returncode == 0, (command, checked.stderr)
