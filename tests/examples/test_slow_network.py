"""The example of a slow network, over loopback: real ranks, fewer bytes, the same loss, a picture."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "slow_network" / "train.py"


def test_over_loopback_bytes_fall_and_the_loss_stays(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--loopback", "--ranks", "2", "--steps", "120"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^(.{20}) loss (\S+)\s+(\S+) MB a rank", done.stdout, re.M)
    found = {name.strip(): (float(loss), float(size)) for name, loss, size in lines}
    assert list(found) == ["plain DDP", "3LC", "3LC + local updates"], done.stdout
    (plain, sent), (compressed, fewer), (local, fewest) = found.values()
    assert sent > 8 * fewer and fewer > 3 * fewest, done.stdout
    assert compressed < 1.5 * plain and local < 1.5 * plain and plain < 1.0, done.stdout
    assert " s," not in done.stdout, "loopback is not slow: no seconds are told"
    assert (tmp_path / "slow_network.svg").read_text().count("<path") > 5


def test_bad_input_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--loopback", "--ranks", "0"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode and "world_size 0 is not a whole number" in done.stderr
