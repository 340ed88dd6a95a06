"""The door through torch.export: programs run like their models, go to files and come back, and refuse by name."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from drivetrain.base.errors import MissingFile
from drivetrain.graph import Program, capture
from drivetrain.graph.errors import CaptureError, ControlFlowError
from drivetrain.nets import build


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("gain", torch.full((1,), 2.0))

    def forward(self, x, *, shift=0.5):
        return {"y": torch.relu(self.norm(self.conv(x))) * self.gain + shift + torch.tensor(1.0)}


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_program_runs_like_its_model():
    model = Block().eval()
    program = capture(model, (X,), {"shift": 0.25})
    assert torch.equal(program(X, shift=0.25)["y"], model(X, shift=0.25)["y"])
    assert {"conv.weight", "norm.running_mean", "gain"} <= set(program.state)
    assert program.state["conv.weight"] is model.conv.weight


def test_batch_norm_stays_one_operator():
    program = capture(Block().eval(), (X,))
    targets = [str(node.target) for node in program.module.graph.nodes]
    assert "aten._native_batch_norm_legit_no_training.default" in targets and "aten.convolution.default" in targets


def test_training_mode_writes_its_running_statistics():
    model, twin = Block().train(), Block().train()
    twin.load_state_dict(model.state_dict())
    program = capture(model, (X,))
    assert program.writes[:2] == ("norm.running_mean", "norm.running_var")
    assert torch.equal(program(X)["y"], twin(X)["y"])
    assert torch.equal(model.norm.running_mean, twin.norm.running_mean)
    assert int(model.norm.num_batches_tracked) == 1


def test_a_write_to_an_input_reaches_the_caller():
    x = torch.ones(3)
    program = capture(lambda x: x.add_(1) * 2, (x.clone(),))
    assert torch.equal(program(x), torch.full((3,), 4.0)) and torch.equal(x, torch.full((3,), 2.0))


def test_a_file_gives_the_same_program_in_a_fresh_process(tmp_path):
    model = Block().eval()
    program = capture(model, (X,))
    program.save(tmp_path / "m.pt2")
    torch.save((X, program(X)["y"]), tmp_path / "io.pt")
    code = (
        "import torch; from drivetrain.graph import Program; p = Program.load('m.pt2'); x, y = torch.load('io.pt'); "
        "assert torch.equal(p(x)['y'], y); print(sorted(p.state))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "conv.weight" in done.stdout


def test_dynamic_sizes_survive_the_file(tmp_path):
    program = capture(Block().eval(), (X,), dynamic_shapes=({0: torch.export.Dim("B", min=1, max=64)},))
    program.save(tmp_path / "m.pt2")
    assert Program.load(tmp_path / "m.pt2")(X[:1])["y"].shape[0] == 1


def test_a_pass_may_fold_weights():
    program = capture(lambda a: a * torch.tensor(3.0), (torch.ones(2),))
    (name,) = program.state
    folded = program.with_module(program.module, {name: torch.tensor(5.0)})
    assert folded(torch.ones(2)).tolist() == [5.0, 5.0] and program(torch.ones(2)).tolist() == [3.0, 3.0]
    with pytest.raises(CaptureError, match="0 state entries and 1 inputs"):
        program.with_module(program.module, {})


def test_a_program_is_a_module_again():
    model = Block().eval()
    module = capture(model, (X,)).as_module()
    assert torch.equal(module(X)["y"], model(X)["y"])
    assert "conv.weight" in dict(module.named_parameters())


def test_a_net_of_the_house_is_captured():
    model, x = build("lenet5").eval(), torch.randn(2, 1, 32, 32)
    assert torch.allclose(capture(model, (x,))(x), model(x), atol=1e-6)


def test_a_branch_on_values_is_refused_with_its_line():
    def f(x):
        if x.sum() > 0:  # the branch
            return x
        return -x

    with pytest.raises(ControlFlowError, match=r"torch\.cond") as caught:
        capture(f, (torch.ones(2),))
    assert "the branch" in str(caught.value) and "test_capture.py" in str(caught.value)


def test_what_cannot_run_is_refused_with_its_line():
    def f(x):
        return x @ x  # shapes do not fit

    with pytest.raises(CaptureError, match="test_capture.py"):
        capture(f, (torch.ones(2, 3),))


def test_arguments_that_do_not_fit_are_told_by_signature():
    with pytest.raises(CaptureError, match=r"do not fit f\(x\)"):

        def f(x):
            return x

        capture(f, (X, X))
    with pytest.raises(ValueError, match="must be a tuple, found Tensor"):
        capture(torch.sin, X)
    with pytest.raises(ValueError, match="captured for arguments"):
        capture(lambda x: x, (X,))(X, X)


def test_a_file_that_is_none_is_told_by_name(tmp_path):
    with pytest.raises(MissingFile, match="no file"):
        Program.load(tmp_path / "none.pt2")
    (tmp_path / "bad.pt2").write_bytes(b"not a zip")
    with pytest.raises(CaptureError, match="bad.pt2 is not a .pt2 file"):
        Program.load(tmp_path / "bad.pt2")
