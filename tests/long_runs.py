"""Marks of test modules whose cases take minutes: a target of the Makefile runs them, the ordinary suite skips them."""

import os

import pytest

TARGETS = {
    "make chaos": "GRADSIEVE_FULL_MATRIX",
    "make cluster-test": "GRADSIEVE_CLUSTER_RUNS",
    "make test-object-store": "GRADSIEVE_STORE_RUNS",
}
"""Environment variable that each target sets."""


def only_in(target: str) -> pytest.MarkDecorator:
    """Skip, and say which target runs it, unless that target does."""
    return pytest.mark.skipif(TARGETS[target] not in os.environ, reason=f"minutes each: `{target}`")


def long_runs(target: str, *, seconds: int) -> list[pytest.MarkDecorator]:
    """For `pytestmark` of a module of whole runs on Ray; a case may take so many seconds."""
    return [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(seconds), only_in(target)]
