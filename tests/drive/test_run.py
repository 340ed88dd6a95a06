"""A drive runs its stages, skips what is unchanged, and gives the same bytes for the same seed."""

import json

import numpy as np
import pytest

from drivetrain.drive import load_model, read_drive, run_drive


def test_a_drive_goes_from_data_to_a_verdict_and_a_report(cli, moons, states):
    result = cli("run", "drive.toml", cwd=moons)
    assert result.exit_code == 0, result.stderr
    assert "moons passed" in result.stdout
    run = moons / "runs" / "moons"
    assert states(run) == {"data": "ran", "train": "ran", "ci": "ran"}
    curves = json.loads((run / "train" / "curves.json").read_text())
    assert len(curves["steps"]) == 3 * (480 // 40)
    accuracy = curves["epochs"][-1]["test_accuracy"]
    right = np.load(run / "train" / "predictions.npy") == np.load(run / "train" / "labels.npy")
    assert right.mean() == pytest.approx(accuracy)
    verdict = json.loads((run / "ci" / "verdict.json").read_text())
    assert (verdict["kind"], verdict["passed"]) == ("floor", True)
    assert verdict["clauses"][0]["estimate"] == pytest.approx(accuracy)
    assert (run / "report.html").is_file()


def test_what_is_unchanged_is_not_run_again(cli, moons, states, hashes):
    cli("run", "drive.toml", cwd=moons)
    run = moons / "runs" / "moons"
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/*")}
    cli("run", "drive.toml", cwd=moons)
    assert states(run) == {"data": "unchanged", "train": "unchanged", "ci": "unchanged"}
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/*")} == before

    cli("run", "drive.toml", "--set", "train.epochs=4", cwd=moons)
    assert states(run) == {"data": "unchanged", "train": "ran", "ci": "ran"}
    verdict = json.loads((run / "ci" / "verdict.json").read_text())
    assert verdict["kind"] == "condition"
    assert verdict["against"] is not None

    model = moons / "model.py"
    model.write_text(model.read_text().replace("hidden: int = 32", "hidden: int = 24"))
    cli("run", "drive.toml", "--set", "train.epochs=4", cwd=moons)
    assert states(run) == {"data": "unchanged", "train": "ran", "ci": "ran"}

    data = moons / "moons.csv"
    data.write_text(data.read_text() + "0.5,0.5,upper\n")
    cli("run", "drive.toml", "--set", "train.epochs=4", cwd=moons)
    assert states(run) == {"data": "ran", "train": "ran", "ci": "ran"}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(moons, hashes):
    folders = [
        run_drive(read_drive(moons / "drive.toml", overrides), runs=moons / name).folder
        for name, overrides in (("a", []), ("b", []), ("c", ["seed=1"]))
    ]
    first, second, third = map(hashes, folders)
    assert first == second
    assert first["train/model.pt"] != third["train/model.pt"]
    assert first["data/train.parquet"] != third["data/train.parquet"]


def test_the_number_of_workers_changes_the_result_by_rounding_alone(moons):
    losses = {}
    for workers in (1, 2, 4):
        file = read_drive(moons / "drive.toml", [f"train.workers={workers}", "train.epochs=1"])
        folder = run_drive(file, runs=moons / f"w{workers}").folder
        losses[workers] = json.loads((folder / "train" / "curves.json").read_text())["epochs"][0]["test_loss"]
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)
    assert losses[4] == pytest.approx(losses[1], rel=1e-4)


def test_only_from_and_fresh_choose_what_runs(cli, moons, states):
    run = moons / "runs" / "moons"
    early = cli("run", "drive.toml", "--only", "train", cwd=moons)
    assert early.exit_code == 2
    assert "--only train builds on [data], which has not run" in early.stderr
    cli("run", "drive.toml", "--only", "data", cwd=moons)
    assert states(run) == {"data": "ran", "train": "not reached", "ci": "not reached"}
    cli("run", "drive.toml", cwd=moons)
    cli("run", "drive.toml", "--from", "train", cwd=moons)
    assert states(run) == {"data": "unchanged", "train": "ran", "ci": "ran"}
    cli("run", "drive.toml", "--only", "data", cwd=moons)
    assert states(run)["data"] == "unchanged"
    cli("run", "drive.toml", "--only", "ci", "--fresh", cwd=moons)
    assert states(run) == {"data": "unchanged", "train": "unchanged", "ci": "ran"}
    cli("run", "drive.toml", "--fresh", cwd=moons)
    assert set(states(run).values()) == {"ran"}


def test_the_trained_model_is_loaded_with_its_weights(cli, moons):
    cli("run", "drive.toml", cwd=moons)
    run = moons / "runs" / "moons"
    model = load_model(run)
    assert not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) == (2 * 32 + 32) + (32 * 32 + 32) + (32 * 2 + 2)


def test_a_failed_gate_ends_with_exit_code_1_and_is_told_again_without_a_second_decision(cli, moons):
    hopeless = ("--set", "ci.floor=n > 0.99 +/- 0.01")
    first = cli("run", "drive.toml", *hopeless, cwd=moons)
    assert first.exit_code == 1
    assert "rejected" in first.stdout
    ledger = moons / "runs" / "moons" / "gate" / "floor.jsonl"
    decided = ledger.read_text()
    assert cli("run", "drive.toml", *hopeless, cwd=moons).exit_code == 1
    assert cli("run", "drive.toml", *hopeless, "--from", "ci", cwd=moons).exit_code == 1
    assert ledger.read_text() == decided


def test_json_tells_the_same_to_machines(cli, moons):
    result = json.loads(cli("run", "drive.toml", "--json", cwd=moons).stdout)
    assert result["passed"] is True
    assert [step["name"] for step in result["stages"]] == ["data", "train", "ci"]


def test_regression_on_a_torch_dataset_of_the_user(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))\n"
        "y = x @ torch.tensor([1.0, -2.0, 0.5])\n"
        "train, test = TensorDataset(x[:400], y[:400]), TensorDataset(x[400:], y[400:])\n"
        "def linear(in_features):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(in_features, 1), torch.nn.Flatten(0))\n"
    )
    (tmp_path / "drive.toml").write_text(
        'name = "line"\n[data]\ntrain = "mine:train"\ntest = "mine:test"\n'
        '[train]\nmodel = "mine:linear"\ntask = "regression"\ntolerance = 0.1\nepochs = 15\nbatch_size = 20\n'
        '[train.optimizer]\nname = "sgd"\nlr = 0.1\n'
        '[ci]\nfloor = "n > 0.5 +/- 0.01"\ncondition = "n - o > -0.1 +/- 0.01"\n'
    )
    result = cli("run", "drive.toml", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    verdict = json.loads((tmp_path / "runs" / "line" / "ci" / "verdict.json").read_text())
    assert verdict["clauses"][0]["estimate"] == 1.0


def test_workers_may_exchange_compressed_gradients_and_the_report_tells_the_bytes(cli, moons):
    (moons / "drive.toml").write_text(
        (moons / "drive.toml").read_text() + '\n[train.exchange]\ncodec = "3lc"\nmin_numel = 500\n'
    )
    result = cli("run", "drive.toml", "--set", "train.epochs=6", cwd=moons)
    assert result.exit_code == 0, result.stdout + result.stderr
    run = moons / "runs" / "moons"
    account = json.loads((run / "train" / "exchange.json").read_text())
    assert account["steps"] == 6 * (480 // 40)
    raw, wire = account["parameters"]["layers.2.weight"]
    assert raw > 10 * wire
    assert "times fewer than float32" in (run / "report.html").read_text()
    refused = cli("run", "drive.toml", "--set", "train.exchange.aggregate=krumm", cwd=moons)
    assert refused.exit_code == 2
    assert "did you mean 'krum'" in refused.stderr


def test_a_robust_rule_watches_every_worker(cli, moons):
    (moons / "drive.toml").write_text(
        (moons / "drive.toml").read_text() + '\n[train.exchange]\ncodec = "raw"\naggregate = "trimmed-mean"\nf = 1\n'
    )
    result = cli("run", "drive.toml", "--set", "train.workers=4", cwd=moons)
    assert result.exit_code == 0, result.stdout + result.stderr
    run = moons / "runs" / "moons"
    account = json.loads((run / "train" / "exchange.json").read_text())
    assert [row["rank"] for row in account["suspicion"]] == [0, 1, 2, 3] and account["quarantined"] == []
    page = (run / "report.html").read_text()
    assert "How suspicious each worker looks" in page and "Seconds by part" in page
    listed = cli("comm", "suspects", str(run), "--json")
    assert listed.exit_code == 0, listed.stderr


def test_workers_may_average_models_instead_of_gradients(cli, moons):
    (moons / "drive.toml").write_text(
        (moons / "drive.toml").read_text() + '\n[train.exchange]\nsync = "fixed:5"\ncodec = "raw"\n'
    )
    result = cli("run", "drive.toml", "--set", "train.epochs=6", cwd=moons)
    assert result.exit_code == 0, result.stdout + result.stderr
    run = moons / "runs" / "moons"
    rows = json.loads((run / "train" / "exchange_times.json").read_text())["sync"]["rows"]
    # Twelve steps an epoch: averaged after 5 and 10, and at the epoch's end, where the model is judged.
    assert [row["step"] for row in rows[:4]] == [5, 10, 12, 17]
    assert "Steps between averagings" in (run / "report.html").read_text()


@pytest.mark.parametrize("exchange", ['codec = "3lc"', 'codec = "3lc"\nsync = "fixed:5"'])
def test_a_run_cut_off_under_an_exchange_keeps_what_the_codecs_held_back(exchange, moons, hashes, monkeypatch):
    """A run of six epochs, and one that was stopped after three and resumed from its checkpoint, end alike."""
    text = (moons / "drive.toml").read_text().replace("epochs = 3", "epochs = 6")
    (moons / "drive.toml").write_text(text + f"\n[train.exchange]\n{exchange}\nmin_numel = 500\n")
    whole = run_drive(read_drive(moons / "drive.toml"), runs=moons / "whole").folder
    model = moons / "model.py"
    source = model.read_text()
    model.write_text(
        source.replace(
            "return self.layers(x)",
            "self.calls = getattr(self, 'calls', 0) + self.training\n"
            "        import os, pathlib\n"
            "        if 'RANK' in os.environ and self.calls == 40 and not pathlib.Path('failed').exists():\n"
            "            pathlib.Path('failed').touch()\n"
            "            raise RuntimeError('stopped')\n"
            "        return self.layers(x)",
        )
    )
    assert model.read_text() != source
    monkeypatch.chdir(moons)
    with pytest.raises(Exception, match="stopped|failed"):
        run_drive(read_drive(moons / "drive.toml"), runs=moons / "cut")
    cut = run_drive(read_drive(moons / "drive.toml"), runs=moons / "cut").folder
    first, second = hashes(whole), hashes(cut)
    same = [name for name in first if name.startswith("train/") and not name.endswith("stage.json")]
    assert {name: first[name] for name in same} == {name: second[name] for name in same}
