"""`drivetrain graph bn` through its own small application: what it prints, writes and refuses."""

import json

import pytest
import typer
from typer.testing import CliRunner

from drivetrain.base.errors import InvalidValue
from drivetrain.cli.graph_batchnorm import register


def run(*arguments):
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)  # one command alone would swallow its own name
    return CliRunner().invoke(app, ["bn", *map(str, arguments)])


def test_facts(tmp_path):
    page = tmp_path / "out.html"
    result = run("resnet20", "--shape", "2,3,32,32", "--json", "--report", page, "--measure")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["batch_norms"] == 19 and found["edges"] == 9
    assert found["step_bytes"]["bnff"] * 20 == found["step_bytes"]["baseline"] * 9
    assert found["measured"]["after_s"] > 0 and "stem.1" in page.read_text()


def test_table():
    result = run("resnet20", "--shape", "2,3,32,32")
    assert result.exit_code == 0 and result.output.startswith("9 of 19 batch norms fuse")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet2", "--shape", "1,3,32,32"), "resnet2"),
        (("resnet20", "--shape", "1,3,32"), "four sizes"),
        (("resnet20", "--shape", "a"), "no list of sizes"),
        (("resnet20", "--shape", "1,4,32,32"), "does not take an input of shape"),
    ],
)
def test_bad_input(arguments, message):
    result = run(*arguments)
    assert isinstance(result.exception, InvalidValue) and message in str(result.exception)
