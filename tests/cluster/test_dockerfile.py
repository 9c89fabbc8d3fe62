"""The image's recipe, read: it was never built where these tests run."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
STEPS = [
    line.split(maxsplit=1) for line in re.sub(r"\\\n", " ", TEXT).splitlines() if line and not line.startswith("#")
]


def _arguments(instruction: str) -> list[str]:
    return [rest for name, rest in STEPS if name == instruction]


def test_python_is_one_that_the_package_allows() -> None:
    (base,) = _arguments("FROM")
    version = re.fullmatch(r"python:3\.(\d+)-slim-bookworm", base)
    assert version
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert int(version[1]) >= int(allowed.removeprefix(">=3."))


def test_everything_that_is_copied_is_there_and_let_through() -> None:
    let_through = {
        line[1:] for line in (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = {source for line in _arguments("COPY") for source in line.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= copied


def test_packages_are_those_that_were_tested() -> None:
    (install,) = [line for line in _arguments("RUN") if "pip install" in line]
    assert "-c constraints.txt" in install
    assert not re.search(r"--extra-index-url|--trusted-host|https?://", TEXT)


def test_it_runs_as_the_user_of_the_manifests_and_holds_no_secret() -> None:
    (user,) = _arguments("USER")
    assert f"--uid {user} " in " ".join(_arguments("RUN"))
    assert user == "1000"  # cluster/kuberay says the same
    assert [name for name, _ in STEPS].index("USER") > max(i for i, (name, _) in enumerate(STEPS) if name == "RUN")
    assert not re.search(r"TOKEN|SECRET|PASSWORD|_KEY", TEXT)
    assert "RAY_AUTH_MODE=token" in " ".join(_arguments("ENV"))
