"""Graphs in files: they run in a fresh process without the user's code, and say when they are not what was written."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

from drivetrain.base.errors import MissingFile
from drivetrain.graph.errors import CaptureError, NotSerializableError
from drivetrain.graph.staging import Spec, function, load

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, x):
        return {"y": self.out(torch.relu(self.norm(x))), "n": 3}


def test_a_fresh_process_computes_the_same(tmp_path):
    model = Net()
    f = function(model, backend="eager", signature=(Spec(("B", 3)),))
    expected = f(X)["y"].detach()
    model.eval()
    f = function(model, backend="eager", signature=(Spec(("B", 3)),))
    expected = f(X)["y"].detach()
    f.traces[0].exported(tmp_path / "f.pt2")
    torch.save((X, expected), tmp_path / "io.pt")
    code = (
        "import torch; from drivetrain.graph import load; f = load('f.pt2'); x, y = torch.load('io.pt'); out = f(x); "
        "assert torch.equal(out['y'], y) and out['n'] == 3 and f(x[:1])['y'].shape == (1, 2); "
        "print(sorted(c.name for c in f.captures))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "norm_running_mean" in done.stdout and "out_weight" in done.stdout


def test_plain_torch_reads_it_too(tmp_path):
    f = function(lambda x: x.sin() * 2, backend="eager")
    f.concrete(X).exported(tmp_path / "f.pt2")
    assert torch.equal(torch.export.load(str(tmp_path / "f.pt2")).module()(X), X.sin() * 2)


def test_state_that_is_written_lives_on_and_is_stored_once(tmp_path):
    n = torch.zeros(())

    @function(backend="eager")
    def count(x):
        n.add_(1)
        return x * n + n

    count(X)
    count.traces[0].exported(tmp_path / "c.pt2")
    made = load(tmp_path / "c.pt2")
    assert len(made.captures) == 1
    assert torch.equal(made(X), X * 2 + 2) and torch.equal(made(X), X * 3 + 3) and n.item() == 1
    with pytest.raises(ValueError, match="this graph takes float32"):
        made(X.double())


def test_nested_calls_branches_and_custom_gradients_are_stored(tmp_path):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g

    inner = function(lambda x: Double.apply(x).cos(), backend="eager")
    outer = function(lambda x: inner(x) + 1, backend="eager")
    outer(X)
    outer.traces[0].exported(tmp_path / "o.pt2")
    assert torch.equal(load(tmp_path / "o.pt2")(X), (X * 2).cos() + 1)


def test_a_branch_by_value_is_stored_and_a_loop_by_value_is_refused(tmp_path):
    w = torch.tensor(3.0)

    @function(backend="eager")
    def branch(x):
        return torch.cond(x.sum() > 0, lambda v: v.sin() * w, lambda v: v.cos(), (x,))

    @function(backend="eager")
    def loop(x):
        return torch.while_loop(lambda v: v.sum() < 9, lambda v: (v * 2,), (x,))[0]

    ones = torch.ones(3)
    branch(ones), loop(ones)
    branch.traces[0].exported(tmp_path / "b.pt2")
    made = load(tmp_path / "b.pt2")
    assert torch.equal(made(ones), ones.sin() * 3) and torch.equal(made(-ones), (-ones).cos())
    with pytest.raises(NotSerializableError, match="loops until a tensor's value"):
        loop.traces[0].exported(tmp_path / "l.pt2")


def test_files_that_are_none_or_another(tmp_path):
    with pytest.raises(MissingFile, match="no file"):
        load(tmp_path / "none.pt2")
    (tmp_path / "bad.pt2").write_bytes(b"nothing")
    with pytest.raises(CaptureError, match="not a .pt2 file"):
        load(tmp_path / "bad.pt2")
    torch.export.save(torch.export.export(nn.Linear(3, 2), (X,)), tmp_path / "plain.pt2")
    with pytest.raises(CaptureError, match="not written by drivetrain"):
        load(tmp_path / "plain.pt2")
    f = function(lambda x: x + 1, backend="eager")
    f.concrete(X).exported(tmp_path / "f.pt2")
    for change, says in (({"hash": "0"}, "hash differs"), ({"format": 99}, "format 99")):
        changed = tmp_path / "changed.pt2"
        with zipfile.ZipFile(tmp_path / "f.pt2") as source, zipfile.ZipFile(changed, "w") as target:
            for item in source.infolist():
                data = source.read(item)
                if item.filename.endswith("drivetrain.json"):
                    data = json.dumps(json.loads(data) | change).encode()
                target.writestr(item, data)
        with pytest.raises(CaptureError, match=says):
            load(changed)
