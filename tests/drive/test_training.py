"""A drive's training can be opened without running it, for tools that try things."""

import torch

from drivetrain.drive import open_training, read_drive


def test_model_batches_and_loss_are_those_that_the_drive_trains_with(moons):
    model, batches, loss = open_training(read_drive(moons / "drive.toml"), runs=moons / "runs")
    assert len(batches) == 480 // 40
    x, y = batches[0]
    assert (x.shape, y.shape, y.dtype) == ((40, 2), (40,), torch.int64)
    assert loss(model(x), y).item() > 0
    again, same, _ = open_training(read_drive(moons / "drive.toml"), runs=moons / "runs")
    assert torch.equal(same[3][0], batches[3][0])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_suggest_takes_a_drive(cli, moons):
    result = cli("optim", "suggest", "drive.toml", "--steps", "60", cwd=moons)
    assert "next: torch.optim.SGD" in result.stdout, result.stderr
    both = cli("optim", "suggest", "drive.toml", "--model", "model:Net", cwd=moons)
    assert both.exit_code == 2
    assert "brings its own model" in both.stderr
    neither = cli("optim", "suggest", cwd=moons)
    assert neither.exit_code == 2
    assert "or --model and --data" in neither.stderr
