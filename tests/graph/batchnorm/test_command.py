"""`drivetrain graph bn` through its own small application: what it prints, writes and refuses."""

import json

import pytest
import typer
from typer.testing import CliRunner

from drivetrain.base.errors import InvalidValue
from drivetrain.cli.graph_batchnorm import register
from drivetrain.graph.batchnorm.rewrite import LEVELS


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


def test_levels():
    """Of 20 sweeps an edge rcf leaves 16 and mvf 15; what is done is told for that level."""
    lines = {level: run("resnet20", "--shape", "64,3,32,32", "--level", level).output for level in LEVELS}
    before = float(lines["rcf"].split(": ")[1].split(" MB")[0].replace(",", ""))
    for level, sweeps in (("rcf", 16), ("mvf", 15), ("bnff", 9)):
        after = float(lines[level].split("-> ")[1].split(" MB")[0].replace(",", ""))
        assert abs(after - before * sweeps / 20) <= 1 and f'level="{level}"' in lines[level].replace("\n", "")
    assert lines["stats_reuse"].startswith("level stats_reuse fuses nothing")
    assert lines["auto"].splitlines()[0] == lines["bnff"].splitlines()[0]
    assert "read-in" in lines["bnff"] and "read-in" not in lines["rcf"]


def test_a_level_is_measured():
    result = run("resnet20", "--shape", "2,3,16,16", "--json", "--measure", "--level", "mvf")
    measured = json.loads(result.stdout)["measured"]
    assert (measured["level"], measured["layout"]) == ("mvf", "given") and measured["before_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet2", "--shape", "1,3,32,32"), "resnet2"),
        (("resnet20", "--shape", "1,3,32"), "four sizes"),
        (("resnet20", "--shape", "1,3,32,32", "--level", "bnf"), "bnff"),
        (("resnet20", "--shape", "a"), "no list of sizes"),
        (("resnet20", "--shape", "1,4,32,32"), "does not take an input of shape"),
    ],
)
def test_bad_input(arguments, message):
    result = run(*arguments)
    assert isinstance(result.exception, InvalidValue) and message in str(result.exception)
