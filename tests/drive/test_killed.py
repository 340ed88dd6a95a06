"""Killed at any instant, a drive resumes and ends with the same bytes; no worker outlives it, no port is opened."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LISTEN = "0A"


def start(folder: Path, runs: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "drivetrain.cli.main", "run", "drive.toml", "--runs", runs]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, from /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int(re.search(r"\) \S (\d+)", (entry / "stat").read_text())[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [pid]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


def gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_until_done(folder: Path, runs: str, chance: random.Random, most: int) -> int:
    """SIGKILL the drive after random times, `most` times at the most, then let it end; how often it was killed."""
    kills = 0
    for _ in range(most):
        drive = start(folder, runs)
        try:
            drive.communicate(timeout=chance.uniform(1.0, 9.0))
            assert drive.returncode == 0
            return kills
        except subprocess.TimeoutExpired:
            workers = descendants(drive.pid)
            drive.send_signal(signal.SIGKILL)
            drive.communicate()
            kills += 1
        for worker in workers:
            deadline = time.monotonic() + 20
            while not gone(worker):
                assert time.monotonic() < deadline, "a worker outlives its killed drive"
                time.sleep(0.05)
    drive = start(folder, runs)
    _, errors = drive.communicate(timeout=300)
    assert drive.returncode == 0, errors
    return kills


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_drive_resumes_to_the_same_bytes(moons, hashes, seed):
    text = (moons / "drive.toml").read_text().replace("epochs = 3", "epochs = 40")
    (moons / "drive.toml").write_text(text.replace('name = "adam"\nlr = 0.01', 'name = "yellowfin"'))
    whole = start(moons, "whole")
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    kill_until_done(moons, "cut", random.Random(seed), most=5)
    assert hashes(moons / "cut" / "moons") == hashes(moons / "whole" / "moons")
    left = [path.name for path in (moons / "cut" / "moons").iterdir() if path.name.endswith((".partial", ".aside"))]
    assert left == []


@pytest.mark.parametrize("cut", ["marked", "aside", "swapped"])
def test_a_kill_between_the_renames_is_mended(tmp_path, cut):
    """The three instants at which a finished stage is neither the old folder nor the new one."""
    from drivetrain.drive.folders import Marker, finish, read_marker, settle, work_folder

    finish(work_folder(tmp_path, "train", "old"), "train", Marker("old", True, ""))
    work = work_folder(tmp_path, "train", "new")
    (work / "stage.json").write_text('{"key": "new", "passed": true, "summary": ""}')
    if cut in ("aside", "swapped"):
        (tmp_path / "train").rename(tmp_path / ".train.aside")
    if cut == "swapped":
        work.rename(tmp_path / "train")
    settle(tmp_path, "train")
    assert read_marker(tmp_path / "train").key == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_a_cut_off_stage_leaves_the_earlier_one_in_place(tmp_path):
    from drivetrain.drive.folders import Marker, finish, read_marker, settle, work_folder

    finish(work_folder(tmp_path, "train", "old"), "train", Marker("old", True, ""))
    (work_folder(tmp_path, "train", "new") / "checkpoint.pt").touch()
    settle(tmp_path, "train")
    assert read_marker(tmp_path / "train").key == "old"
    (tmp_path / "train").rename(tmp_path / ".train.aside")
    settle(tmp_path, "train")
    assert read_marker(tmp_path / "train").key == "old"


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net")
def test_training_listens_on_loopback_alone(moons):
    (moons / "drive.toml").write_text((moons / "drive.toml").read_text().replace("epochs = 3", "epochs = 60"))
    drive = start(moons, "runs")
    seen: set[str] = set()
    workers = 0
    while drive.poll() is None:
        family = [drive.pid, *descendants(drive.pid)]
        workers = max(workers, len(family) - 1)
        seen |= listening(family)
        time.sleep(0.1)
    assert drive.returncode == 0, drive.stderr.read()
    assert workers == 2
    assert seen, "gloo's workers listen for each other, so an empty set means that this test looks in the wrong place"
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert {address.partition(":")[0] for address in seen} <= loopback


def listening(processes: list[int]) -> set[str]:
    """Addresses (hexadecimal, as /proc shows them) on which the processes listen."""
    sockets = set()
    for process in processes:
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            try:
                target = str(handle.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and fields[9] in sockets:
                found.add(fields[1])
    return found
