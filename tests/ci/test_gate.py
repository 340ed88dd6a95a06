"""The gate end to end: files, git, label queue, hidden verdicts, exit codes."""

import json
import subprocess

import numpy as np
import pytest

from drivetrain.ci import Gate, TestSet, gate

CONFIG = """[ci]
condition = "{condition}"
reliability = 0.95
steps = 3
adaptivity = "{adaptivity}"
testset = "test.csv"
predictions = "preds/{{commit}}.npy"
ledger = ".drivetrain/ci-ledger.jsonl"
{more}
"""
ITEMS = 1_500
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, ITEMS)


def model(accuracy, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(ITEMS) < accuracy, LABELS, (LABELS + 1) % 3)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def make(condition="n > 0.7 +/- 0.05", adaptivity="full", more="", labelled=True):
        rows = [f"i{k},{LABELS[k] if labelled else ''},{k * 7 % 13}" for k in range(ITEMS)]
        (tmp_path / "test.csv").write_text("id,label,hour\n" + "\n".join(rows) + "\n")
        (tmp_path / "drivetrain.toml").write_text(CONFIG.format(condition=condition, adaptivity=adaptivity, more=more))
        (tmp_path / "preds").mkdir(exist_ok=True)
        for name, accuracy in (("good", 0.9), ("better", 0.97), ("bad", 0.5)):
            np.save(tmp_path / "preds" / f"{name}.npy", model(accuracy, sum(map(ord, name))))
        return tmp_path

    return make


def test_pass_reject_spent_and_repeat(project, cli):
    folder = project()
    assert cli("ci", "check", "--commit", "bad", cwd=folder).exit_code == 1
    result = cli("ci", "check", "--commit", "good", "--json", cwd=folder)
    facts = json.loads(result.stdout)
    assert result.exit_code == 0 and facts["outcome"] == "TRUE" and facts["remaining"] == 1
    assert cli("ci", "check", "--commit", "better", cwd=folder).exit_code == 0
    np.save(folder / "preds" / "late.npy", model(0.9, 5))
    spent = cli("ci", "check", "--commit", "late", cwd=folder)
    assert spent.exit_code == 3 and "all 3 steps" in spent.stderr and "Traceback" not in spent.stderr
    again = cli("ci", "check", "--commit", "bad", cwd=folder)
    assert again.exit_code == 1 and "no step used" in again.stdout
    status = json.loads(cli("ci", "status", "--json", cwd=folder).stdout)
    assert (status["used"], status["remaining"], status["passes"]) == (3, 0, 2)


def test_renew_starts_the_counters_anew(project, cli):
    folder = project(adaptivity="first-change")
    assert cli("ci", "check", "--commit", "good", cwd=folder).exit_code == 0
    assert cli("ci", "check", "--commit", "better", cwd=folder).exit_code == 3
    assert cli("ci", "renew", cwd=folder).exit_code == 0  # the same file: nothing changes
    assert cli("ci", "check", "--commit", "better", cwd=folder).exit_code == 3
    text = (folder / "test.csv").read_text().replace(",hour", ",hours")
    (folder / "test.csv").write_text(text)
    mid = cli("ci", "check", "--commit", "better", cwd=folder)
    assert mid.exit_code == 2 and "changed mid-life" in mid.stderr
    assert "registered" in cli("ci", "renew", cwd=folder).stdout
    assert cli("ci", "check", "--commit", "better", cwd=folder).exit_code == 0


def test_old_is_the_last_accepted_model(project, cli):
    folder = project("n - o > 0.01 +/- 0.1")
    first = cli("ci", "check", "--commit", "good", cwd=folder)
    assert first.exit_code == 2 and "there is no old model" in first.stderr
    verdict = gate(folder / "drivetrain.toml", new=model(0.97, 1), old=model(0.8, 2), commit="c1")
    assert verdict.passed
    (folder / "preds" / "c1.npy").unlink(missing_ok=True)
    result = json.loads(cli("ci", "check", "--commit", "bad", "--json", cwd=folder).stdout)
    expected = np.mean(np.load(folder / "preds" / "bad.npy") == LABELS) - np.mean(model(0.97, 1) == LABELS)
    assert result["clauses"][0]["estimate"] == pytest.approx(expected)


def test_label_queue_and_reuse(project, cli):
    folder = project("d < 0.5 +/- 0.1 /\\\\ n - o > 0.01 +/- 0.1", labelled=False)
    new, old = model(0.95, 1), model(0.8, 2)
    assert not gate(folder / "drivetrain.toml", new=new, old=old, commit="c1").decided
    np.save(folder / "preds" / "c1.npy", new)
    np.save(folder / "preds" / "c0.npy", old)
    result = cli("ci", "check", "--commit", "c1", "--old", "c0", cwd=folder)
    assert result.exit_code == 4 and "labels are missing" in result.stdout
    assert not (folder / ".drivetrain" / "ci-ledger.jsonl").exists()
    lines = (folder / "labels-needed.csv").read_text().splitlines()
    assert lines[0] == "id,label" and len(lines) - 1 <= np.sum(new != old)
    filled = ["id,label"] + [f"{line[:-1]},{LABELS[int(line[1:-1])]}" for line in lines[1:]]
    (folder / "filled.csv").write_text("\n".join(filled) + "\n")
    assert cli("ci", "label", "filled.csv", cwd=folder).exit_code == 0
    assert cli("ci", "check", "--commit", "c1", "--old", "c0", cwd=folder).exit_code == 0
    (folder / "filled.csv").write_text(f"{filled[0]}\n{filled[1][:-1]}{(int(filled[1][-1]) + 1) % 3}\n")
    changed = cli("ci", "label", "filled.csv", cwd=folder)
    assert changed.exit_code == 2 and "before" in changed.stderr
    (folder / "filled.csv").write_text("id,label\nnobody,1\n")
    unknown = cli("ci", "label", "filled.csv", cwd=folder)
    assert unknown.exit_code == 2 and "'nobody'" in unknown.stderr


def test_a_hidden_verdict_reaches_only_the_report(project, cli, monkeypatch):
    """Adaptivity none: pass and reject look the same on stdout, exit code, ledger, summary and files."""
    seen = []
    for name in ("good", "bad"):
        folder = project(adaptivity="none", more='report_to = "secret/report.json"')
        summary = folder / f"summary-{name}.md"
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
        result = cli("ci", "check", "--commit", name, cwd=folder)
        as_json = cli("ci", "check", "--commit", name, "--json", cwd=folder)
        line = json.loads((folder / ".drivetrain/ci-ledger.jsonl").read_text().splitlines()[-1])
        shown = {key: value for key, value in line.items() if key not in ("commit", "time", "pred", "prev", "sha")}
        report = json.loads((folder / "secret/report.json").read_text())["commits"][name]
        assert report["passed"] is (name == "good")
        kept = sorted(p.name.replace(name, "X") for p in (folder / ".drivetrain").rglob("*"))
        texts = [
            text.replace(name, "X") for text in (result.stdout, result.stderr, as_json.stdout, summary.read_text())
        ]
        seen.append((result.exit_code, as_json.exit_code, texts, shown, kept))
        for path in sorted((folder / ".drivetrain").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert seen[0] == seen[1] and seen[0][0] == 0 and "recorded" in seen[0][2][0]


def test_a_hidden_check_asks_for_labels_whatever_the_unlabelled_clause_says(project, cli):
    """d < 0.2 rejects `far` without a label and lets `near` on: exit code and request must not tell them apart."""
    codes = []
    for name, accuracy in (("near", 0.82), ("far", 0.3)):
        condition = "d < 0.2 +/- 0.1 /\\\\ n - o > 0.01 +/- 0.06"
        folder = project(condition, "none", 'report_to = "secret.json"', labelled=False)
        old = model(0.9, 3)
        new = old.copy()
        new[: int((0.9 - accuracy) * ITEMS)] = (old[: int((0.9 - accuracy) * ITEMS)] + 1) % 3
        np.save(folder / "preds" / "old.npy", old)
        np.save(folder / "preds" / f"{name}.npy", new)
        result = cli("ci", "check", "--commit", name, "--old", "old", cwd=folder)
        codes.append(result.exit_code)
        assert (folder / "labels-needed.csv").exists(), result.stdout + result.stderr
        (folder / "labels-needed.csv").unlink()
    assert codes == [4, 4]


def test_hidden_needs_a_place_for_the_report(project, cli):
    result = cli("ci", "check", "--commit", "good", cwd=project(adaptivity="none"))
    assert result.exit_code == 2 and "report_to" in result.stderr


def test_summary_for_github(project, cli, monkeypatch):
    folder = project()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    cli("ci", "check", "--commit", "good", cwd=folder)
    text = (folder / "summary.md").read_text()
    assert text.startswith("### model gate: TRUE: pass") and "| `n > 0.7 +/- 0.05` |" in text


def test_an_error_uses_no_step(project, cli):
    folder = project()
    cli("ci", "check", "--commit", "bad", cwd=folder)
    before = (folder / ".drivetrain/ci-ledger.jsonl").read_bytes()
    np.save(folder / "preds" / "short.npy", model(0.9, 1)[:-3])
    np.save(folder / "preds" / "nan.npy", np.where(np.arange(ITEMS) == 4, np.nan, model(0.9, 1)))
    for name, message in (
        ("short", "1,497 predictions, the test set has 1,500 items"), ("nan", "new[4] is nan"),
        ("nothing", "no predictions"), ("../x", "no name of a commit"), ("-x", ""),
    ):  # fmt: skip
        result = cli("ci", "check", f"--commit={name}", cwd=folder)
        assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert (folder / ".drivetrain/ci-ledger.jsonl").read_bytes() == before


def test_too_small_a_test_set_exits_3_and_says_what_it_affords(project, cli):
    folder = project("n > 0.7 +/- 0.005")
    result = cli("ci", "check", "--commit", "good", cwd=folder)
    assert result.exit_code == 3 and "have 1,500" in result.stderr and "you would need" in result.stderr


def test_slices_from_columns(project, cli):
    more = '[ci.slices]\nmorning = "hour=7"'
    folder = project("n[morning] > 0.5 +/- 0.2", more=more)
    facts = json.loads(cli("ci", "check", "--commit", "good", "--json", cwd=folder).stdout)
    morning = np.arange(ITEMS) * 7 % 13 == 7
    good = np.load(folder / "preds" / "good.npy")
    assert facts["clauses"][0]["estimate"] == np.mean((good == LABELS)[morning])


def test_plan_from_config_and_from_the_command_line(project, cli):
    folder = project()
    text = cli("ci", "plan", cwd=folder).stdout
    assert "what each knob is worth" in text and "n > 0.7 +/- 0.05" in text
    arguments = ("--reliability", "0.9999", "--adaptivity", "none", "--estimator", "bennett")
    facts = json.loads(cli("ci", "plan", "d < 0.1 +/- 0.01 /\\ n - o > 0.02 +/- 0.01", *arguments, "--json").stdout)
    assert (facts["labels"], facts["unlabelled"], facts["labels_per_commit"]) == (29_048, 66_847, 2_905)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('modes = "fp-free"', "did you mean 'mode'"),
        ('mode = "fp"', "mode"),
        ("reliability = 2.0", "reliability"),
        ("classes = 2", "there are 2 classes"),
        ('slices = { night = "hour" }', "column=value"),
    ],
)
def test_bad_configuration_names_the_key(project, cli, line, message):
    folder = project()
    text = (folder / "drivetrain.toml").read_text()
    key = line.split(" ")[0]
    kept = [old for old in text.splitlines() if not old.startswith(f"{key} ")]
    (folder / "drivetrain.toml").write_text("\n".join([*kept, line]) + "\n")
    result = cli("ci", "check", "--commit", "good", cwd=folder)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr


PREDICT = """import sys
import numpy as np
labels = np.loadtxt("test.csv", delimiter=",", skiprows=1, usecols=1).astype(int)
accuracy = float(open("accuracy.txt").read())
rng = np.random.default_rng(1)
np.save(sys.argv[1], np.where(rng.random(len(labels)) < accuracy, labels, (labels + 1) % 3))
"""


def test_old_model_from_a_git_worktree(project, cli):
    """A commit's predictions are made by the configured command, in that commit's own tree."""
    folder = project("d < 0.9 +/- 0.05 /\\\\ n - o > 0.01 +/- 0.1", more='predict = "python predict.py {out}"')
    (folder / "predict.py").write_text(PREDICT)

    def commit(accuracy):
        (folder / "accuracy.txt").write_text(str(accuracy))
        run = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(folder)]
        if not (folder / ".git").exists():
            subprocess.run([*run, "init", "-q"], check=True)
            (folder / ".gitignore").write_text("preds/\n.drivetrain/\n")
        subprocess.run([*run, "add", "-A"], check=True)
        subprocess.run([*run, "commit", "-qm", str(accuracy)], check=True)
        return subprocess.run([*run, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    old = commit(0.7)
    commit(0.95)
    result = cli("ci", "check", "--old", old, "--json", cwd=folder)
    facts = json.loads(result.stdout)
    assert result.exit_code == 0, result.stderr
    assert facts["clauses"][1]["estimate"] == pytest.approx(0.25, abs=0.05)
    worktrees = subprocess.run(["git", "-C", str(folder), "worktree", "list"], capture_output=True, text=True).stdout
    assert len(worktrees.splitlines()) == 1

    (folder / "predict.py").write_text("raise SystemExit('no such weights')\n")
    commit(0.99)
    failed = cli("ci", "check", cwd=folder)
    assert failed.exit_code == 2 and "no such weights" in failed.stderr


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_real_history_of_models_on_digits(tmp_path):
    """scikit-learn's digits: an MLP replaces a weak logistic regression, a broken MLP doesn't replace that."""
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order] / 16, y[order]
    x_test, y_test = x[600:], y[600:]
    np.savez(tmp_path / "test.npz", id=np.arange(len(y_test)), label=y_test, pixels=x_test)
    testset = TestSet(tmp_path / "test.npz")
    weak = LogisticRegression(C=0.001).fit(x[:40], y[:40]).predict(x_test)
    good = MLPClassifier((64,), max_iter=300, random_state=0).fit(x[:600], y[:600]).predict(x_test)
    broken = np.roll(good, 1)
    config = {
        "condition": "n - o > 0.01 +/- 0.08", "reliability": 0.95, "steps": 4, "adaptivity": "full",
        "decide": "certificate",
        "ledger": str(tmp_path / "ledger.jsonl"), "predictions": str(tmp_path / "{commit}.npy"),
    }  # fmt: skip
    history = [("good", good, weak), ("broken", broken, "last-pass")]
    found = [Gate(config, testset).check(new, old, name).verdict.passed for name, new, old in history]
    assert found == [True, False]
