"""The GitHub Action: its shell steps, run in order as the runner would, against a real git remote."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CONFIG = """[ci]
condition = "n > 0.7 +/- 0.05"
reliability = 0.95
steps = 3
adaptivity = "full"
testset = "test.csv"
"""


def git(folder, *words):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def action(repository):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((repository / "action.yml").read_text())


def run_steps(action, checkout, temp, commit):
    """The exit code of the job: every step with `run`, but Install, in the order of the file."""
    temp.mkdir()
    output = temp / "output"
    output.touch()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ, "PATH": path, "RUNNER_TEMP": str(temp), "GITHUB_OUTPUT": str(output), "GITHUB_SHA": commit,
        "BRANCH": "drivetrain-ci", "CONFIG": "drivetrain.toml",
    }  # fmt: skip
    for step in action["runs"]["steps"]:
        if "run" not in step or step["name"] == "Install":
            continue
        environment.update(dict(line.split("=") for line in output.read_text().splitlines()))
        environment["CODE"] = environment.get("code", "0")
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            assert step["name"] == "Verdict", done.stderr
            return done.returncode
    return 0


def test_inputs_reach_the_shell_only_through_the_environment(action):
    """No ${{ }} inside a script: a branch or file name must not become code."""
    assert all("${{" not in step.get("run", "") for step in action["runs"]["steps"])
    assert action["runs"]["using"] == "composite"


def test_the_ledger_lives_on_its_branch_over_fresh_checkouts(action, tmp_path):
    remote, labels = tmp_path / "remote.git", np.random.default_rng(0).integers(0, 3, 1_500)
    git(tmp_path, "init", "-q", "--bare", str(remote))
    codes, lines = [], []
    for number, accuracy in enumerate((0.9, 0.5, 0.95)):
        checkout = tmp_path / f"checkout{number}"
        git(tmp_path, "clone", "-q", str(remote), str(checkout))
        rows = "".join(f"i{k},{label}\n" for k, label in enumerate(labels))
        (checkout / "test.csv").write_text("id,label\n" + rows)
        (checkout / "drivetrain.toml").write_text(CONFIG)
        (checkout / "model.txt").write_text(str(accuracy))
        git(checkout, "add", "-A")
        git(checkout, "commit", "-qm", str(number))
        git(checkout, "push", "-q", "origin", "HEAD:main")
        commit = git(checkout, "rev-parse", "HEAD")
        (checkout / "preds").mkdir()
        right = np.random.default_rng(number).random(len(labels)) < accuracy
        np.save(checkout / "preds" / f"{commit}.npy", np.where(right, labels, (labels + 1) % 3))
        codes.append(run_steps(action, checkout, tmp_path / f"temp{number}", commit))
        lines.append(git(remote, "show", "drivetrain-ci:.drivetrain/ci-ledger.jsonl").count("\n") + 1)
    assert codes == [0, 1, 0]
    assert lines == [2, 3, 4]
