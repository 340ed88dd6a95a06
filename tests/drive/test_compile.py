"""[train] compile: the same training through a graph compiler, in real workers."""

import json

import pytest

NET = '''import torch
from torch import nn


class Net(nn.Module):
    """Rows become images of 2 x 4 x 4, which two batch-normalised convolutions look at."""

    def __init__(self, in_features, num_classes):
        super().__init__()
        self.spread = nn.Linear(in_features, 32)
        self.layers = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.layers(self.spread(x).view(-1, 2, 4, 4)).mean((2, 3)))
'''


def losses(moons):
    curves = json.loads((moons / "runs/moons/train/curves.json").read_text())
    return [record["loss"] for record in curves["steps"]]


@pytest.mark.parametrize("exchange", [(), ("--set", "train.exchange.codec=raw")], ids=["ddp", "exchange"])
def test_a_compiled_training_is_the_same_training(cli, moons, exchange):
    (moons / "model.py").write_text(NET)
    options = ("run", "drive.toml", "--set", "train.epochs=2", *exchange)
    assert cli(*options, cwd=moons).exit_code == 0
    plain = losses(moons)
    # bn = "always": every batch norm restructured, whatever it gains here; "eager" keeps the test short.
    bn = ("--set", "train.compile_options.bn=always", "--set", "train.compile_options.then=eager")
    done = cli(*options, "--set", "train.compile=drivetrain", *bn, cwd=moons)
    assert done.exit_code == 0, done.stderr
    assert losses(moons) == pytest.approx(plain, rel=1e-3)
    times = json.loads((moons / "runs/moons/train/compile_times.json").read_text())
    assert times["first"] > 0 and times["step"] > 0
    assert times["graphs"] == 1, "the whole step's forward went through the compiler"
    assert "compiled by" in (moons / "runs/moons/report.html").read_text()


def test_the_default_options_train_too(cli, moons):
    (moons / "model.py").write_text(NET)
    done = cli("run", "drive.toml", "--set", "train.epochs=1", "--set", "train.compile=drivetrain", cwd=moons)
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("compile=inductr",), ["should be 'off', 'drivetrain' or 'inductor'"]),
        (("compile=inductor", "compile_options.max_autotun=true"), ["max_autotun", "[train] compile_options"]),
        (("compile=drivetrain", "compile_options.bm=auto"), ["option 'bm' is unknown", "[train] compile_options"]),
        (("compile=drivetrain", "compile_options.then=induktor"), ["did you mean 'inductor'"]),
        (("compile_options.bn=auto",), ["compile_options without compile"]),
    ],
)
def test_mistakes_are_answered_before_any_worker_starts(cli, moons, settings, words):
    flags = [flag for setting in settings for flag in ("--set", f"train.{setting}")]
    done = cli("run", "drive.toml", *flags, cwd=moons)
    assert done.exit_code == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not (moons / "runs/moons/train").exists()
