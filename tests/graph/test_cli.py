"""drivetrain graph trace, explain, report: what they print, write and refuse."""

import json

import pytest
import torch
from typer.testing import CliRunner

from drivetrain.base.errors import DrivetrainError
from drivetrain.cli.graph import app
from drivetrain.graph import load

SOURCE = """
import torch
from drivetrain.graph import function, py_call

W = torch.ones(3, 2)

@function(backend="eager")
def project(x):
    return torch.relu(x) @ W

def branch(x):
    if x.sum() > 0:  # asks
        return x
    return -x

model = torch.nn.Linear(3, 2)

if __name__ == "__main__":
    for n in (2, 3):
        project(torch.ones(n, 3))
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "staged_user.py").write_text(SOURCE)

    def run(*words):
        done = CliRunner().invoke(app, list(words))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


def test_trace_writes_a_file_that_loads(call, tmp_path):
    done = call("trace", "staged_user.py:project", "--spec", "B:1..64,3:f32", "-o", "p.pt2")
    assert done.exit_code == 0 and "2 operators" in done.stdout and "W" in done.stdout
    made = load(tmp_path / "p.pt2")
    for n in (1, 2, 9):
        assert torch.equal(made(torch.ones(n, 3)), torch.full((n, 2), 3.0))


def test_trace_of_a_module_as_json(call):
    facts = json.loads(call("trace", "staged_user.py:model", "--spec", "4,3:f32", "--json").stdout)
    assert facts["operators_count"] == 1 and {c["kind"] for c in facts["captures"]} == {"parameter"}


def test_explain_shows_lines_and_differences(call):
    assert "staged_user.py:9" in call("explain", "staged_user.py:project", "--spec", "4,3:f32").stdout
    beside = call("explain", "staged_user.py:project", "--spec", "4,3:f32", "--beside", "4,3:f64").stdout
    assert "x is float64[4, 3], the trace has float32[4, 3]" in beside


def test_report_of_a_script_and_of_its_file(call, tmp_path):
    first = call("report", "staged_user.py", "-o", "traces.json")
    assert "project" in first.stdout
    again = call("report", "traces.json")
    assert "project" in again.stdout and "operators" in again.stdout
    assert json.loads((tmp_path / "traces.json").read_text())["format"] == "drivetrain traces 1"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("trace", "staged_user.py:projct", "--spec", "4,3:f32"), "did you mean 'project'"),
        (("trace", "none.py:f", "--spec", "4,3:f32"), "there is no file none.py"),
        (("trace", "staged_user.py", "--spec", "4,3:f32"), "names no function"),
        (("trace", "staged_user.py:project", "--spec", "4,3:f33"), "did you mean"),
        (("trace", "staged_user.py:branch", "--spec", "4,3:f32"), "# asks"),
        (("trace", "staged_user.py:project", "--spec", "4,4:f32"), "can't be traced"),
        (("trace", "staged_user.py:W", "--spec", "4,4:f32"), "not a function"),
        (("report", "staged_user.txt"), "no file"),
    ],
)
def test_bad_input_is_told(call, words, says):
    with pytest.raises(DrivetrainError) as caught:
        call(*words)
    assert says in str(caught.value)


def test_a_file_that_holds_no_traces(call, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DrivetrainError, match="no file of traces"):
        call("report", "x.json")
