"""`drivetrain data`: what it prints, what it writes, how it exits."""

from __future__ import annotations

import json
import os

import pytest

from drivetrain.data import Schema, Stats

TRAIN = "fare,pay,tip\n" + "".join(f"{place % 7 + 1.5},{'cash' if place % 3 else 'card'},1\n" for place in range(60))
TODAY = TRAIN.replace("1.5,card", "-1.5,cheque")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "today.csv").write_text(TODAY)
    return tmp_path


def test_the_whole_way(cli, folder):
    """stats -> infer -> validate (exit 1) -> accept -> validate (exit 0)."""
    done = cli("data", "stats", "train.csv", "-o", "train.json", cwd=folder)
    assert done.exit_code == 0 and "60 examples, 3 features" in done.stdout
    assert Stats.load(folder / "train.json").num_examples == 60
    done = cli("data", "infer", "train.json", "-o", "schema.toml", "--ranges", cwd=folder)
    assert done.exit_code == 0 and Schema.load(folder / "schema.toml").domain("pay").values == ["card", "cash"]
    assert cli("data", "validate", "train.json", "schema.toml", cwd=folder).exit_code == 0
    assert not (folder / "schema.report.json").exists(), "a clean run writes nothing"
    done = cli(
        "data",
        "validate",
        "today.csv",
        "schema.toml",
        "--previous",
        "train.json",
        "--rows",
        "2",
        "--html",
        "r.html",
        cwd=folder,
    )
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0].startswith("2 features with errors")
    assert "ENUM_TYPE_UNEXPECTED_STRING_VALUES" in done.stdout and "today.csv:" in done.stdout
    assert "drivetrain data accept" in done.stdout and (folder / "r.html").exists()
    done = cli("data", "report", "schema.report.json", cwd=folder)
    assert done.exit_code == 1 and "cheque" in done.stdout
    assert cli("data", "accept", "pay", "fare", cwd=folder).exit_code == 0
    assert "# accepted" in (folder / "schema.toml").read_text()
    assert cli("data", "validate", "today.csv", "schema.toml", cwd=folder).exit_code == 0


def test_json_has_the_complete_facts(cli, folder):
    cli("data", "infer", "train.csv", "-o", "schema.toml", cwd=folder)
    done = cli("data", "validate", "today.csv", "schema.toml", "--json", cwd=folder)
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and found["ok"] is False
    assert found["anomalies"][0]["id"] == "pay" and found["anomalies"][0]["edit"][0]["op"] == "add"
    assert json.loads(cli("data", "stats", "train.csv", "--json", cwd=folder).stdout)["num_examples"] == 60
    assert (
        json.loads(cli("data", "infer", "train.csv", "--json", cwd=folder).stdout)["feature"]["fare"]["type"] == "float"
    )


def test_diff_and_environment(cli, folder):
    cli("data", "infer", "train.csv", "-o", "a.toml", cwd=folder)
    assert cli("data", "diff", "a.toml", "a.toml", cwd=folder).exit_code == 0
    text = 'environments = ["TRAINING", "SERVING"]\n\n' + (folder / "a.toml").read_text()
    (folder / "b.toml").write_text(text.replace("[feature.tip]", '[feature.tip]\nnot_in = ["SERVING"]'))
    done = cli("data", "diff", "a.toml", "b.toml", cwd=folder)
    assert done.exit_code == 1 and "feature.tip.not_in" in done.stdout
    (folder / "serving.csv").write_text("fare,pay\n1.5,cash\n")
    assert cli("data", "validate", "serving.csv", "b.toml", "--env", "SERVING", cwd=folder).exit_code == 0
    assert cli("data", "validate", "serving.csv", "b.toml", cwd=folder).exit_code == 1
    done = cli("data", "validate", "serving.csv", "b.toml", "--env", "SERVIN", cwd=folder)
    assert done.exit_code == 2 and "did you mean 'SERVING'" in done.stderr


def test_skew(cli, folder):
    (folder / "a.csv").write_text("id,x\n1,5\n2,6\n")
    (folder / "b.csv").write_text("id,x\n2,6\n1,7\n")
    done = cli("data", "skew", "a.csv", "b.csv", "--on", "id", cwd=folder)
    assert done.exit_code == 1 and "1 of 1 features differ" in done.stdout
    assert cli("data", "skew", "a.csv", "a.csv", "--on", "id", cwd=folder).exit_code == 0
    assert json.loads(cli("data", "skew", "a.csv", "b.csv", "--on", "id", "--json", cwd=folder).stdout)["joined"] == 2


def test_fuzz(cli, folder):
    (folder / "schema.toml").write_text(
        '[feature.x]\ntype = "float"\npresence = {min_fraction = 1.0}\nrange = [0.0, 9.0]\n'
    )
    (folder / "steps_of_a_test.py").write_text(
        "def good(batch):\n    return 0.0\n\ndef bad(batch):\n    return batch['x'].log().sum()\n"
    )
    assert cli("data", "fuzz", "schema.toml", "steps_of_a_test:good", cwd=folder).exit_code == 0
    done = cli("data", "fuzz", "schema.toml", "steps_of_a_test:bad", cwd=folder)
    assert done.exit_code == 1 and "assumes more than the schema says" in done.stdout
    assert cli("data", "fuzz", "schema.toml", "steps_of_a_test:god", cwd=folder).exit_code == 2
    assert cli("data", "fuzz", "schema.toml", "no_such_module:f", cwd=folder).exit_code == 2


def test_rules(cli):
    done = cli("data", "rules", "schema_new_column")
    assert done.exit_code == 0 and "SCHEMA_NEW_COLUMN" in done.stdout and "UNEXPECTED_DATA_TYPE" not in done.stdout
    assert len(json.loads(cli("data", "rules", "--json").stdout)) > 60
    done = cli("data", "rules", "SCHEMA_NEW_COLUM")
    assert done.exit_code == 2 and "did you mean 'SCHEMA_NEW_COLUMN'" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("validate", "no.csv", "schema.toml"), "no.csv"),
        (("validate", "no.json", "schema.toml"), "there is no file no.json"),
        (("validate", "train.csv", "no.toml"), "there is no schema file"),
        (("validate", "train.csv", "bad.toml"), "line 2"),
        (("accept", "x"), "there is no report"),
        (("accept",), "needs the id"),
        (("report", "train.csv"), "is no report"),
        (("diff", "schema.toml", "no.toml"), "there is no schema file"),
    ],
)
def test_bad_input_is_told_in_a_few_lines_and_exits_2(cli, folder, words, message):
    cli("data", "infer", "train.csv", "-o", "schema.toml", cwd=folder)
    (folder / "bad.toml").write_text("[feature.fare]\ntyp = 'float'\n")
    before = sorted(os.listdir(folder))
    done = cli("data", *words, cwd=folder)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert sorted(os.listdir(folder)) == before


def test_a_schema_that_cannot_be_meant_exits_2(cli, folder):
    (folder / "schema.toml").write_text('[feature.fare]\ntype = "float"\nrange = [5.0, 1.0]\n')
    assert cli("data", "validate", "train.csv", "schema.toml", cwd=folder).exit_code == 2


def test_a_csv_of_another_dialect_is_named_and_then_read(cli, tmp_path):
    (tmp_path / "semi.csv").write_text("a;b\n1;x\n?;y\n")
    refused = cli("data", "stats", "semi.csv", cwd=tmp_path)
    assert refused.exit_code == 2
    assert "--delimiter ';'" in refused.stderr
    cli("data", "stats", "semi.csv", "--delimiter", ";", "--null", "?", "-o", "semi.json", cwd=tmp_path)
    read = Stats.load(tmp_path / "semi.json").features["a"]
    assert (read.type, read.num_missing, read.num_non_missing) == ("int", 1, 1)
