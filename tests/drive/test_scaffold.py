"""`drivetrain new` makes a drive that runs as it is, for every kind of label."""

import numpy as np
import pandas as pd
import pytest


def run_new(cli, folder, *options) -> str:
    made = cli("new", "mine", *options, cwd=folder)
    assert made.exit_code == 0, made.stderr
    assert "next: drivetrain run mine/drive.toml" in made.stdout
    result = cli("run", "mine/drive.toml", "--set", "train.epochs=12", cwd=folder)
    assert result.exit_code == 0, result.stdout + result.stderr
    return (folder / "mine" / "drive.toml").read_text()


def test_without_data_an_example_comes_with_it(cli, tmp_path):
    run_new(cli, tmp_path)
    again = cli("new", "mine", cwd=tmp_path)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr


@pytest.mark.parametrize("label", ["kind", "number", "amount"])
def test_ones_own_csv_with_text_class_number_or_amount_as_label(cli, tmp_path, label):
    random = np.random.default_rng(0)
    x = random.normal(size=(900, 2))
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "colour": random.choice(["red", "blue"], 900)})
    right = x[:, 0] + x[:, 1] > 0
    frame.loc[::50, "a"] = np.nan
    frame[label] = {"kind": np.where(right, "yes", "no"), "number": right * 1, "amount": x[:, 0] * 3 + x[:, 1]}[label]
    frame.to_csv(tmp_path / "mine.csv", index=False)
    text = run_new(cli, tmp_path, "--data", "mine.csv", "--label", label)
    assert ('task = "regression"' in text) == (label == "amount")


def test_ones_own_module_is_used(cli, tmp_path):
    (tmp_path / "nets_of_mine.py").write_text(
        "from torch import nn\n\ndef small(in_features, num_classes):\n"
        "    return nn.Sequential(nn.Linear(in_features, 16), nn.Tanh(), nn.Linear(16, num_classes))\n"
    )
    text = run_new(cli, tmp_path, "--model", "nets_of_mine:small")
    assert 'model = "nets_of_mine:small"' in text


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--data", "none.csv"), "none.csv"),
        (("--label", "lable"), "did you mean 'label'"),
        (("--model", "no_colon"), "module:attribute"),
        (("--model", "missing_module:Net"), "no module 'missing_module'"),
    ],
)
def test_a_mistake_leaves_no_folder(cli, tmp_path, options, part):
    result = cli("new", "mine", *options, cwd=tmp_path)
    assert result.exit_code == 2
    assert part in result.stderr
    assert not (tmp_path / "mine").exists()
