"""Suggesting a rate and a momentum for plain SGD, as a call and as a command."""

import json
import textwrap

import pytest
import torch
from torch import nn

from drivetrain.base.errors import InvalidValue
from drivetrain.optim import suggest

MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))

def loader():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(320, 8, generator=generator)
    y = (x[:, :3] + 0.1 * torch.randn(320, 3, generator=generator)).argmax(1)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32)

def broken():
    raise RuntimeError("the file is gone")

def nan_loss(output, target):
    return output.sum() * float("nan")

number = 3
triples = [(1, 2, 3)]
"""


@pytest.fixture
def project(tmp_path):
    """A folder with a user's module of its own name, so that no other test's module is found instead."""
    name = f"project_{abs(hash(str(tmp_path))) % 10**8}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))
    return tmp_path, name


def batches(count: int = 10):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 32, 8, generator=generator)
    return [(batch, batch[:, :3].argmax(1)) for batch in x]


def test_suggestion_trains_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    before = [p.detach().clone() for p in model.parameters()]
    result = suggest(model, batches(), steps=120)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert result.tuned < 0.8 * result.start
    assert result.frozen is not None and result.frozen < 0.8 * result.start and result.holds
    assert 0 <= result.momentum < 1 and result.lr > 0
    assert result.stats.step == 120
    again = suggest(model, batches(), steps=120)
    assert again == result


def test_unchecked_and_with_another_loss() -> None:
    model = nn.Linear(8, 3)
    data = [(x, torch.zeros(32, 3)) for x, _ in batches()]
    result = suggest(model, data, "mse_loss", steps=20, check=False, beta=0.9)
    assert result.frozen is None and result.holds


def test_a_rate_that_does_not_hold_is_told() -> None:
    """Inputs grow a hundredfold at the end: YellowFin follows, the frozen rate does not."""
    data = [(x * (0.05 if step < 150 else 5.0), x[:, :3]) for step, (x, _) in enumerate(batches(200))]
    result = suggest(nn.Linear(8, 3), data, "mse_loss", steps=200)
    assert not result.holds


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"loss": "crossentropy"}, "did you mean"),
        ({"steps": 1}, "at least 2"),
        ({"data": []}, "0 batches and no more"),
        ({"data": iter(batches(3)), "steps": 10}, "3 batches and no more, for 10 steps"),
        ({"data": [torch.zeros(2)]}, r"got a Tensor"),
        ({"data": [(1, 2, 3)]}, r"tuple of 3"),
    ],
)
def test_bad_input_is_answered(arguments, word) -> None:
    with pytest.raises(InvalidValue, match=word):
        suggest(nn.Linear(8, 3), **{"data": batches(), "steps": 5, **arguments})


def test_command_prints_the_verdict_first(cli, project) -> None:
    folder, name = project
    result = cli("optim", "suggest", "--model", f"{name}:build", "--data", f"{name}:loader", "--steps", 60, cwd=folder)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("lr = ")
    assert "next: torch.optim.SGD(params, lr=" in result.stdout


def test_command_gives_the_same_facts_as_json(cli, project) -> None:
    folder, name = project
    words = ("optim", "suggest", "--model", f"{name}:build", "--data", f"{name}:loader", "--steps", 30, "--json")
    first, second = (cli(*words, cwd=folder) for _ in range(2))
    content = json.loads(first.stdout)
    assert content["steps"] == 30 and content["holds"] is True and "reason" in content["stats"]
    assert json.loads(second.stdout) == content, "same seed, same suggestion"


@pytest.mark.parametrize(
    ("model", "data", "loss", "word"),
    [
        ("nowhere:build", "{}:loader", "cross_entropy", "there is no module 'nowhere'"),
        ("{}:bild", "{}:loader", "cross_entropy", "did you mean 'build'"),
        ("{}:number", "{}:loader", "cross_entropy", "gave a int, not a torch.nn.Module"),
        ("{}:broken", "{}:loader", "cross_entropy", "the file is gone"),
        ("{}:build", "{}:number", "cross_entropy", "gave a int, not batches"),
        ("{}:build", "{}:triples", "cross_entropy", "tuple of 3"),
        ("{}:build", "{}:loader", "cross_entropi", "did you mean 'cross_entropy'"),
        ("{}:build", "{}:loader", "{}:nan_loss", "not finite at step 1"),
        ("{}:build", "{}:loader", "mse_loss", "training step 1 failed"),
    ],
)
def test_command_answers_bad_input_with_exit_2(cli, project, model, data, loss, word) -> None:
    folder, name = project
    options = [text.replace("{}", name) for text in ("--model", model, "--data", data, "--loss", loss, "--steps", "5")]
    result = cli("optim", "suggest", *options, cwd=folder)
    assert result.exit_code == 2
    assert word in result.stderr.replace("\n            ", " ")
    assert "Traceback" not in result.stderr
