"""`drivetrain comm tau` and `simulate`: real ranks on loopback, a user's model, JSON, bad input."""

import json

import pytest

from drivetrain.cli.comm_period import split_rules
from drivetrain.comm.sync import speedup


def test_tau_from_alpha(cli):
    found = cli("comm", "tau", "--alpha", "4")
    assert found.exit_code == 0 and "tau_0 = 36" in found.stdout and "3.57x" in found.stdout
    facts = json.loads(cli("comm", "tau", "--alpha", "4", "--json").stdout)
    assert facts["tau0"] == 36 and facts["largest_speedup"] == 5.0
    assert {row["tau"]: row["speedup"] for row in facts["periods"]}[10] == pytest.approx(speedup(4, 10))


def test_tau_measures_a_users_model_between_real_ranks(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch.nn import Linear, ReLU, Sequential\n"
        "def build():\n    return Sequential(Linear(6, 50), ReLU(), Linear(50, 3))\n"
        "def loader():\n    return [(torch.randn(4, 6), torch.randint(3, (4,))) for _ in range(3)]\n"
    )
    found = cli("comm", "tau", "--measure", "--model", "mine:build", "--data", "mine:loader", "--json", cwd=tmp_path)
    assert found.exit_code == 0, found.stderr
    facts = json.loads(found.stdout)
    assert facts["parameters"] == 6 * 50 + 50 + 50 * 3 + 3 and facts["workers"] == 2 and facts["over"] == "loopback"
    assert facts["y"] > 0 and facts["d"] > 0 and facts["alpha"] == pytest.approx(facts["d"] / facts["y"])
    assert facts["bytes"] == pytest.approx(4 * facts["parameters"], abs=200), "half out, half back, and the notes"


def test_simulate(cli):
    words = (
        "comm",
        "simulate",
        "--alpha",
        "4",
        "--rules",
        "fixed:1,adacomm:tau0=8,interval_s=20,marginal",
        "--steps",
        "60",
    )
    found = cli(*words, "--loss", "1.9", "--json")
    assert found.exit_code == 0, found.stderr
    rows = {row["rule"]: row for row in json.loads(found.stdout)["rules"]}
    assert list(rows) == ["fixed:1", "adacomm:tau0=8,interval_s=20", "marginal"]
    assert rows["fixed:1"]["seconds"] == 60 * 5 and rows["fixed:1"]["averagings"] == 60
    assert rows["adacomm:tau0=8,interval_s=20"]["periods"][0] == 8
    assert rows["marginal"]["seconds_to_loss"] < rows["fixed:1"]["seconds_to_loss"]
    shown = cli(*words, "--loss", "0.0001")
    assert shown.exit_code == 0 and "No rule reaches loss 0.0001 in 60 steps" in shown.stdout


def test_rules_in_a_row():
    assert split_rules("fixed:1, post-local:100,4,qsr:0.1,adacomm:tau0=20,gamma=1") == [
        "fixed:1", "post-local:100,4", "qsr:0.1", "adacomm:tau0=20,gamma=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tau",), "tau needs --measure, or --alpha"),
        (("tau", "--alpha", "-1"), "alpha=-1.0"),
        (("tau", "--measure", "--model", "mine:build"), "--model and --data together"),
        (("tau", "--measure", "--workers", "1"), "nobody to average with"),
        (("tau", "--measure", "--loss", "cross_entropi"), "no loss 'cross_entropi'"),
        (("simulate", "--rules", "fixed:1,adacom"), "did you mean 'adacomm'"),
        (("simulate", "--rules", "fixed:0"), "tau=0"),
        (("simulate", "--task", "mpl"), "did you mean 'mlp'"),
        (("simulate", "--workers", "0"), "m=0"),
        (("simulate", "--steps", "0"), "steps=0"),
        (("simulate", "--alpha", "-2"), "D=-2.0"),
        (("simulate", "--rules", ","), "no rules"),
    ],
)
def test_bad_input(cli, words, said):
    found = cli("comm", *words)
    assert found.exit_code == 2 and said in found.stderr and "Traceback" not in found.stderr
