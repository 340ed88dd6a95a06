"""drivetrain graph optimize and rules: what they print, write and refuse."""

import json

import pytest

from drivetrain.graph.capture import Program


@pytest.fixture
def call(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("DRIVETRAIN_CACHE", str(tmp_path / "cache"))
    return lambda *words: cli("graph", *words, cwd=tmp_path)


def test_optimize_says_what_was_gained_and_writes_what_it_is_told(call, tmp_path):
    result = call(
        "optimize", "small_cnn", "--shape", "1,3,32,32", "--then", "eager", "--report", "page.html", "-o", "small.pt2"
    )
    assert result.exit_code == 0, result.stderr
    assert "fold-batch-norm" in result.stdout and "page.html, small.pt2" in result.stdout
    assert "<h2>Measured</h2>" in (tmp_path / "page.html").read_text()
    assert Program.load(tmp_path / "small.pt2").example_inputs[0].shape == (1, 3, 32, 32)
    again = call("optimize", "small.pt2", "--then", "eager", "--cost", "flops", "--json")
    found = json.loads(again.stdout)
    assert set(found["measured_ms"]) >= {"original", "eager"} and found["max_abs_err"] < 1e-4


def test_rules_are_listed_and_tried(call):
    listed = json.loads(call("rules", "--json").stdout)
    assert {"R1", "R15"} <= {row["number"] for row in listed} and all(row["needs"] for row in listed)
    tried = call("rules", "--verify")
    assert tried.exit_code == 0 and f"all {len(listed)} rules compute the same" in tried.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("resnt50", "--shape", "1,3,8,8"), "did you mean 'resnet50'"),
        (("small_cnn",), "--shape 1,3,224,224"),
        (("small_cnn", "--shape", "1,x"), "is no list of sizes"),
        (("small_cnn", "--shape", "0,3"), "a size below 1"),
        (("small_cnn", "--input", "none.npy"), "no file none.npy"),
        (("none.pt2",), "no file none.pt2"),
        (("small_cnn", "--shape", "1,3,32,32", "--alpha", "0.5"), "alpha must be 1 or more"),
        (("small_cnn", "--shape", "1,3,32,32", "--then", "onnx"), "onnxruntime"),
        (("small_cnn", "--shape", "1,3,32,32", "--threads", "0"), "--threads must be 1 or more"),
    ],
)
def test_bad_input_is_a_message(call, words, told):
    result = call("optimize", *words)
    assert result.exit_code == 2 and told in result.stderr, result.stderr


RULES_OF_THE_USER = '''
from drivetrain.graph import rule
from drivetrain.graph.rewrite.fused import aten

@rule("relu-is-nothing", always=True)
def wrong(graph, node):
    """relu(x) = x"""
    return node.args[0] if node.op is aten.relu.default else None

@rule("sloppy")
def raises(graph, node):
    raise ValueError("this rule is sloppy")
'''


def test_a_wrong_rule_is_named_and_ends_with_1(call, tmp_path):
    (tmp_path / "own.py").write_text(RULES_OF_THE_USER)
    words = ("optimize", "mlp", "--shape", "1,1,28,28", "--then", "eager", "--cost", "launches")
    result = call(*words, "--rule", "own:wrong", "-o", "kept.pt2")
    assert result.exit_code == 1 and "computes something else: relu-is-nothing" in result.stdout, result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert any("relu" in str(node.target) for node in Program.load(tmp_path / "kept.pt2").module.graph.nodes)
    found = call(*words, "--rule", "own:wrong", "--json")
    assert found.exit_code == 1 and json.loads(found.stdout)["wrong"] == ["relu-is-nothing"]


def test_a_rule_that_raises_is_told_and_the_rest_goes_on(call, tmp_path):
    (tmp_path / "own.py").write_text(RULES_OF_THE_USER)
    words = ("optimize", "mlp", "--shape", "1,1,28,28", "--then", "eager", "--cost", "launches")
    result = call(*words, "--rule", "own:raises", "--diff")
    assert result.exit_code == 0 and "left out: sloppy: ValueError: this rule is sloppy" in result.stdout
    assert "--- original" in result.stdout and "Traceback" not in result.stdout + result.stderr
    refused = call(*words, "--rule", "own:RULES_OF_NOBODY")
    assert refused.exit_code == 2
    refused = call(*words, "--rule", "own:aten")
    assert refused.exit_code == 2 and "wanted a rule" in refused.stderr
