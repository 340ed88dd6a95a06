"""Bad input and failures: a clear message, the right exit code, no half-written artifact, the earlier run untouched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def refused(result, *parts: str, code: int = 2) -> None:
    """The command ended with `code` and told every part, and no traceback."""
    assert result.exit_code == code, result.stdout + result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def edit(folder: Path, before: str, after: str, file: str = "drive.toml") -> None:
    text = (folder / file).read_text()
    assert before in text
    (folder / file).write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("epochs = 3", "epocs = 3", ["'train.epocs' is no key here", "did you mean 'epochs'", "line 9: [train] epocs"]),
        ("epochs = 3", 'epochs = "three"', ["'train.epochs' is 'three'", "valid integer", "line 9"]),
        ("epochs = 3", "epochs = 0", ["greater than or equal to 1"]),
        ("workers = 2", "workers = 3", ["batch_size 40 must be a multiple of workers 3"]),
        ("[ci]", "[cci]", ["'cci' is no key here", "did you mean 'ci'"]),
        ("seed = 0", "seed = 0\nseed = 1", ["this is not TOML", "line 3"]),
        ('source = "moons.csv"', 'source = "noons.csv"', ["there is no file", "noons.csv", "line 5: [data] source"]),
        ('source = "moons.csv"', 'train = "moons.csv"', ["train and test go together"]),
        (
            'source = "moons.csv"',
            'source = "moons.csv"\nlabel = "lable"',
            ["'lable' is unknown", "did you mean 'label'"],
        ),
        ('"model:Net"', '"modle:Net"', ["no module 'modle'", "did you mean 'model'", "line 8: [train] model"]),
        ('"model:Net"', '"model:Nett"', ["has no 'Nett'", "did you mean 'Net'"]),
        ('"model:Net"', '"mpl"', ["model 'mpl' is unknown", "did you mean 'mlp'"]),
        ("epochs = 3", 'loss = "cross_entrpy"', ["loss 'cross_entrpy' is unknown", "did you mean 'cross_entropy'"]),
        ('name = "adam"', 'name = "adamm"', ["optimizer 'adamm' is unknown", "did you mean 'adam"]),
        ("lr = 0.01", "lrr = 0.01", ["no option 'lrr'", "did you mean 'lr'"]),
        ('floor = "n > 0.5 +/- 0.01"', 'floor = "n - o > 0.5 +/- 0.01"', ["speaks of n only"]),
        ('floor = "n > 0.5 +/- 0.01"', 'floor = "n >> 0.5"', ["column 4"]),
        ("batch_size = 40", "batch_size = 4000", ["batch_size is 4000, the training split has 480 rows"]),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place_and_remedy(cli, moons, before, after, parts):
    edit(moons, before, after)
    refused(cli("run", "drive.toml", cwd=moons), *parts)
    assert not list((moons / "runs").glob("moons/train"))


def test_a_missing_file_and_an_unknown_stage_are_named(cli, moons):
    refused(cli("run", "nowhere.toml", cwd=moons), "there is no file nowhere.toml")
    refused(cli("run", "drive.toml", "--only", "trian", cwd=moons), "'trian' is unknown", "did you mean 'train'")
    refused(cli("run", "drive.toml", "--set", "train.epochs", cwd=moons), "is not KEY=VALUE")
    refused(cli("run", "drive.toml", "--set", "train.epochs=x", cwd=moons), "(--set train.epochs)")
    refused(cli("report", "runs/nothing", cwd=moons), "holds no run")


def test_a_model_that_fails_to_build_shows_its_own_error_and_line(cli, moons):
    edit(moons, "super().__init__()", "super().__init__(); raise KeyError('colour')", "model.py")
    refused(
        cli("run", "drive.toml", cwd=moons),
        "model model:Net could not be built",
        "KeyError: 'colour'",
        "model.py, line",
    )


def test_a_model_of_the_wrong_shape_is_refused_before_any_worker_starts(cli, moons):
    edit(moons, "return self.layers(x)", "return self.layers(x[:, :1])", "model.py")
    refused(cli("run", "drive.toml", cwd=moons), "model model:Net fails on rows [2, 2]", "shapes cannot be multiplied")


def test_a_loss_that_turns_nan_ends_the_run_at_its_step_and_leaves_the_earlier_run(cli, moons, hashes):
    assert cli("run", "drive.toml", cwd=moons).exit_code == 0
    before = hashes(moons / "runs" / "moons")
    sure = ("--set", "train.optimizer.name=sgd", "--set", "train.optimizer.lr=1e30")
    refused(cli("run", "drive.toml", *sure, cwd=moons), "the loss became", "in epoch 1, step", "smaller learning rate")
    assert hashes(moons / "runs" / "moons") == before


def test_a_worker_that_dies_is_named_with_signal_and_step(cli, moons, hashes):
    assert cli("run", "drive.toml", cwd=moons).exit_code == 0
    before = hashes(moons / "runs" / "moons")
    edit(
        moons,
        "return self.layers(x)",
        "import os, signal\n"
        "        self.calls = getattr(self, 'calls', 0) + 1\n"
        "        if os.environ.get('RANK') == '1' and self.calls == 6:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return self.layers(x)",
        "model.py",
    )
    refused(cli("run", "drive.toml", cwd=moons), "worker 1 died (SIGKILL) at step 5", "run again")
    assert hashes(moons / "runs" / "moons") == before


def test_an_exception_in_a_worker_comes_back_with_its_own_line(cli, moons):
    edit(moons, "return self.layers(x)", "assert len(x) < 10, 'too many'\n        return self.layers(x)", "model.py")
    refused(cli("run", "drive.toml", cwd=moons), "step 0 failed", "AssertionError: too many (model.py, line")


def test_data_that_breaks_its_schema_stops_the_drive_with_exit_code_1(cli, moons):
    assert cli("run", "drive.toml", "--only", "data", cwd=moons).exit_code == 0
    shutil.copy(moons / "runs" / "moons" / "data" / "schema.toml", moons / "kept.toml")
    edit(moons, 'source = "moons.csv"', 'source = "moons.csv"\nschema = "kept.toml"')
    edit(moons, ",upper\n", ",uper\n", "moons.csv")
    result = cli("run", "drive.toml", cwd=moons)
    assert result.exit_code == 1
    assert "uper" in result.stdout
    assert not (moons / "runs" / "moons" / "train").exists()
    assert "uper" in (moons / "runs" / "moons" / "report.html").read_text()


def test_two_drives_in_one_folder_are_refused(cli, moons):
    from drivetrain.drive.folders import locked

    with locked(moons / "runs" / "moons"):
        refused(cli("run", "drive.toml", cwd=moons), "another drive is running")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="a small disk is mounted as root only")
def test_a_full_disk_is_told_and_leaves_the_earlier_run(cli, moons, hashes):
    disk = moons / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        assert cli("run", "drive.toml", "--runs", disk, cwd=moons).exit_code == 0
        before = hashes(disk / "moons")
        grown = "--set", "train.model_options={hidden = 400}"
        refused(cli("run", "drive.toml", "--runs", disk, *grown, cwd=moons), "no space left on the disk")
        assert hashes(disk / "moons") == before
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_debug_shows_the_traceback(moons):
    done = subprocess.run(
        [sys.executable, "-m", "drivetrain.cli.main", "run", "nowhere.toml", "--debug"],
        cwd=moons,
        capture_output=True,
        text=True,
    )
    assert "Traceback" in done.stderr
    assert "MissingFile" in done.stderr
