"""The pytest plugin, in a pytest of its own."""

import subprocess
import sys

import pytest

TESTS = """
import numpy as np
import pytest

LABELS = np.zeros(2000, dtype=int)
def right(k):
    return np.where(np.arange(2000) < k, 0, 1)

gated = pytest.mark.model_gate(condition="n > 0.8 +/- 0.05", reliability=0.99, steps=4)

@gated
def test_good(model_gate):
    assert model_gate(new=right(1900), labels=LABELS).outcome is True

@gated
def test_bad(model_gate):
    model_gate(new=right(1000), labels=LABELS)

@gated
def test_unclear(model_gate):
    model_gate(new=right(1620), labels=LABELS)

@pytest.mark.model_gate("n > 0.8 +/- 0.05", mode="fn-free", reliability=0.99, steps=4)
def test_unclear_but_tolerated(model_gate):
    model_gate(new=right(1620), labels=LABELS)

def test_unmarked(model_gate):
    model_gate(new=right(1900), labels=LABELS, condition="n > 0.5 +/- 0.1")
"""


def run_pytest(folder, *arguments):
    plugin = () if "drivetrain" in _loaded() else ("-p", "drivetrain.cli.pytest_plugin")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugin, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def _loaded():
    from importlib.metadata import entry_points

    return {entry.name for entry in entry_points(group="pytest11")}


def test_outcomes_and_the_price(tmp_path):
    (tmp_path / "test_models.py").write_text(TESTS)
    result = run_pytest(tmp_path, "-v", "-rA")
    assert result.returncode == 1
    for line in (
        "test_good PASSED", "test_bad FAILED", "test_unclear UNKNOWN (rejected)",
        "test_unclear_but_tolerated UNKNOWN (accepted)", "test_unmarked PASSED",
    ):  # fmt: skip
        assert line in result.stdout
    assert "model gate: n > 0.8 +/- 0.05: " in result.stdout and " labels, " in result.stdout
    assert "FALSE: reject" in result.stdout
    assert "2 failed, 3 passed" in result.stdout


@pytest.mark.parametrize(
    ("marker", "message"),
    [("condition='n > 0.5 +/- 0.1', reliabilty=0.9", "has no reliabilty"), ("reliability=0.9", "needs condition=")],
)
def test_a_bad_marker_is_a_usage_error(tmp_path, marker, message):
    (tmp_path / "test_models.py").write_text(
        f"import pytest\n@pytest.mark.model_gate({marker})\ndef test_x(model_gate):\n    pass\n"
    )
    result = run_pytest(tmp_path)
    assert result.returncode == 4 and message in result.stdout + result.stderr


def test_inert_where_unused(tmp_path):
    (tmp_path / "test_plain.py").write_text("def test_x():\n    pass\n")
    (tmp_path / "conftest.py").write_text(
        "import sys\ndef pytest_sessionfinish():\n    print('torch' in sys.modules, 'scipy' in sys.modules)\n"
    )
    result = run_pytest(tmp_path, "-s")
    assert "model gate" not in result.stdout and "False False" in result.stdout
