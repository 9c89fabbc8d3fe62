"""Looking at a finished run must stay cheap: naming these stages brings in neither torch nor ray."""

import subprocess
import sys

import pytest

MODULES = [
    "stages.selectors.basic",
    "stages.selectors.clip_score",
    "stages.selectors.loss",
    "stages.selectors.table",
    "stages.train.gather",
    "stages.train.trusted",
    "stages.train.loader",
    "stages.train.ledger",
    "stages.train.checkpoint",
]
HEAVY = ["torch", "ray", "open_clip", "snorkel", "sklearn", "plotly", "fasttext_pybind"]


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
