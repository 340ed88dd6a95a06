"""`drivetrain comm audit` and `suspects`, and what stands behind them."""

import json

import pytest
import torch
from torch import nn

from drivetrain import nets
from drivetrain.base.errors import InvalidValue
from drivetrain.comm.aggregate import Quarantine, RankReport, RobustnessError, Suspicion, get
from drivetrain.comm.aggregate.audit import WEIGHTS, audit
from drivetrain.comm.aggregate.record import read_reports


def test_the_network_of_an_audit_has_as_many_weights_as_it_says():
    assert nn.utils.parameters_to_vector(nets.mlp(64, (32,)).parameters()).numel() == WEIGHTS


def test_an_audit_finds_what_a_rule_bears_and_what_not():
    attacks = ["sign-flip", "nan", "alie"]
    good = audit(get("multi-krum"), 11, 2, attacks=attacks, steps=120)
    assert good.accuracy > 0.88
    by_name = {result.attack: result for result in good.results}
    for crude in ("sign-flip", "nan"):
        assert by_name[crude].lost < 0.03
        assert by_name[crude].influence == 0
    assert by_name["alie"].influence > 0, "it hides among the honest"
    bad = audit(get("cge"), 11, 2, steps=60)
    assert bad.results[0].lost > 0.02, "comparative gradient elimination has a hole: directions it does not see"
    assert [r.lost for r in bad.results] == sorted((r.lost for r in bad.results), reverse=True)


def test_the_same_seed_gives_the_same_audit_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = audit(get("median"), 5, 1, attacks=["random"], steps=5)
    assert torch.equal(torch.rand(3), expected)
    assert audit(get("median"), 5, 1, attacks=["random"], steps=5) == first


def test_without_scikit_learn_it_attacks_on_clusters(monkeypatch):
    monkeypatch.setattr("drivetrain.comm.aggregate.audit.importlib.util.find_spec", lambda name: None)
    found = audit(get("median"), 5, 1, attacks=["sign-flip"], steps=80)
    assert "clusters" in found.task
    assert found.accuracy > 0.6
    assert found.results[0].lost < 0.1


def test_what_can_not_be_audited():
    with pytest.raises(RobustnessError, match="only with n >= 11"):
        audit(get("bulyan"), 8, 2)
    with pytest.raises(InvalidValue, match="f=0"):
        audit(get("median"), 8, 0)
    with pytest.raises(InvalidValue, match="at most one each"):
        audit(get("median"), 2000, 1)


def test_audit_says_the_verdict_first_and_json_has_all(cli):
    shown = cli("comm", "audit", "--rule", "multi-krum", "--n", 9, "--f", 2, "--attack", "nan", "--steps", 10)
    assert shown.exit_code == 0
    assert shown.stdout.startswith("multi-krum tolerates f=2 of n=9")
    assert 'next: Exchange(aggregate="multi-krum", f=2)' in shown.stdout
    found = cli("comm", "audit", "--rule", "multi-krum", "--n", 9, "--f", 2, "--attack", "nan", "--steps", 10, "--json")
    facts = json.loads(found.stdout)
    assert facts["explanation"]["min_n"] == 7 and facts["explanation"]["bytes_per_rank"] == 7111759
    assert [result["attack"] for result in facts["audit"]["results"]] == ["nan"]


def test_a_tolerance_makes_it_a_check(cli):
    command = ("comm", "audit", "--rule", "cge", "--n", 9, "--f", 2, "--attack", "opt-ipm", "--steps", 40)
    assert cli(*command, "--tolerance", 100).exit_code == 0
    assert cli(*command, "--tolerance", -100).exit_code == 1


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--rule", "bulyan", "--n", 8, "--f", 2), "bulyan tolerates f=2 only with n >= 11 workers, this job has 8"),
        (("--rule", "bulyan", "--n", 8, "--f", 2), "largest f here is 1; multi-krum would tolerate f=2 from n >= 7"),
        (("--rule", "multikrum", "--n", 8, "--f", 2), "did you mean 'multi-krum'"),
        (("--rule", "median", "--n", 8, "--f", -1), "whole number, 0 or more"),
        (("--rule", "median", "--n", 8, "--f", 1, "--attack", "ali"), "did you mean 'alie'"),
        (("--rule", "median", "--n", 8, "--f", 1, "--steps", 0), "steps=0"),
    ],
)
def test_bad_input_is_told_with_what_would_be_right(cli, options, part):
    shown = cli("comm", "audit", *options)
    assert shown.exit_code == 2
    assert part in shown.stderr and "Traceback" not in shown.stderr


def a_report(rounds: int = 60) -> dict:
    """Four honest ranks, one that sends NaN and one far out that is never chosen."""
    suspicion = Suspicion(6)
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        square = 1 + 0.1 * torch.rand(6, generator=generator, dtype=torch.float64)
        square[5] = 100.0
        square[4] = float("inf")
        info = {"weights": torch.tensor([0.25, 0.25, 0.25, 0.25, 0, 0]), "nonfinite": [4]}
        suspicion.observe(info, sqdist_to_result=square)
    return {"steps": rounds, "suspicion": [vars(row) for row in suspicion.report()], "quarantined": [4]}


def test_suspects_are_named_with_the_reason(cli, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "exchange.json").write_text(json.dumps(a_report()))
    shown = cli("comm", "suspects", tmp_path)
    assert shown.exit_code == 1
    assert shown.stdout.startswith("suspect: rank 4, 5; left out during the run: 4")
    assert "NaN or infinity in 60 of 60 rounds" in shown.stdout
    assert "chosen in 0% of the rounds" in shown.stdout
    facts = json.loads(cli("comm", "suspects", tmp_path / "train" / "exchange.json", "--json").stdout)
    assert list(facts["suspects"]) == ["4", "5"] and facts["quarantined"] == [4] and len(facts["ranks"]) == 6


def test_a_short_run_names_nobody(cli, tmp_path):
    (tmp_path / "exchange.json").write_text(json.dumps(a_report(20)))
    shown = cli("comm", "suspects", tmp_path)
    assert shown.exit_code == 0
    assert shown.stdout.startswith("suspect: none of 6 ranks")
    assert cli("comm", "suspects", tmp_path, "--after", 10).exit_code == 1


def test_the_reason_and_the_decision_agree():
    reports = [RankReport(**row) for row in a_report()["suspicion"]]
    verdict = Quarantine()
    assert [bool(verdict.reason(report)) for report in reports] == [False] * 4 + [True, True]
    assert sorted(verdict.decide(reports, get("median"), 2)) == [4, 5]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "no exchange.json in"),
        ("{", "is no report of an exchange"),
        ('{"steps": 3}', "says nothing of suspects"),
        ('{"suspicion": [{"rank": 0}]}', "is no report of an exchange: no 'rounds'"),
        ("[1]", "is no report of an exchange"),
    ],
)
def test_what_is_no_report_is_told(cli, tmp_path, content, part):
    if content is not None:
        (tmp_path / "exchange.json").write_text(content)
    shown = cli("comm", "suspects", tmp_path)
    assert shown.exit_code == 2
    assert part in shown.stderr and "Traceback" not in shown.stderr


def test_a_report_is_read_from_the_file_itself(tmp_path):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(a_report()))
    reports, left_out = read_reports(path)
    assert [report.rank for report in reports] == list(range(6)) and left_out == [4]
