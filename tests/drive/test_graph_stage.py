"""[graph] in a drive: the trained model rewritten, compared on the test split, written; else refused or left alone."""

import json

import torch

from drivetrain.drive import load_model
from drivetrain.graph.capture import Program


def with_graph(folder, text):
    path = folder / "drive.toml"
    path.write_text(path.read_text() + text)


def test_the_model_is_rewritten_and_held_against_the_original(cli, moons):
    with_graph(moons, '\n[graph]\nthen = "eager"\nbatch_size = 4\n')
    result = cli("run", "drive.toml", cwd=moons)
    assert result.exit_code == 0, result.stdout + result.stderr
    run = moons / "runs" / "moons"
    found = json.loads((run / "graph" / "rewrite.json").read_text())
    assert found["rows"] == 120 and found["changed predictions"] == 0 and found["largest difference"] < 1e-5
    page = (run / "report.html").read_text()
    assert page.index("Training") < page.index("Rewriting") < page.index("Gate")
    assert "<title>moons: what was rewritten</title>" in (run / "graph" / "rewrite.html").read_text()
    program, model = Program.load(run / "graph" / "model.pt2"), load_model(run)
    (example,) = program.example_inputs
    with torch.no_grad():
        assert torch.allclose(program(example), model(example), atol=1e-5)


def test_a_model_that_cannot_be_captured_stops_the_drive_or_goes_on_as_told(cli, moons):
    source = (moons / "model.py").read_text()
    (moons / "model.py").write_text(
        source.replace("return self.layers(x)", "return self.layers(x) if x.sum() > -1e9 else self.layers(x) * 2")
    )
    assert (moons / "model.py").read_text() != source
    with_graph(moons, "\n[graph]\n")
    result = cli("run", "drive.toml", cwd=moons)
    assert result.exit_code == 2, result.stdout
    assert "model.py" in result.stderr and "torch.cond" in result.stderr
    assert not (moons / "runs" / "moons" / "graph").exists()
    result = cli("run", "drive.toml", "--set", "graph.required=false", cwd=moons)
    assert result.exit_code == 0, result.stderr
    assert "The model was not rewritten" in (moons / "runs" / "moons" / "report.html").read_text()


def test_bad_input(cli, moons):
    with_graph(moons, "\n[graph]\nbatch_size = 4\n")
    for assignment, words in (
        ("graph.then=onnx", ("then", "onnxruntime")),
        ("graph.alpha=0.5", ("alpha", "1")),
        ("graph.batch_size=100000", ("batch_size is 100000", "120 rows")),
    ):
        result = cli("run", "drive.toml", "--set", assignment, cwd=moons)
        assert result.exit_code == 2
        assert all(word in result.stderr for word in words), result.stderr
