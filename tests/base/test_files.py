"""Files are whole or not there."""

import pytest

from drivetrain.base.errors import RunFailed
from drivetrain.base.files import atomic_path, sha256_bytes, sha256_file, write_json, write_text


def test_a_failure_leaves_the_earlier_file_and_no_litter(tmp_path):
    target = tmp_path / "report.html"
    write_text(target, "first")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as beside:
        beside.write_text("half of the sec")
        raise ZeroDivisionError
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_equal_content_gives_equal_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1, 2]})
    write_json(tmp_path / "b.json", {"a": [1, 2], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_full_disk_is_told_in_words_and_leaves_nothing_half_written(tmp_path):
    with pytest.raises(RunFailed, match="no space left"), atomic_path(tmp_path / "model.pt"):
        with open("/dev/full", "wb", buffering=0) as full:  # the kernel's own always-full disk
            full.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_hash_of_a_file_is_the_hash_of_its_bytes(tmp_path):
    write_text(tmp_path / "a", "abc")
    assert sha256_file(tmp_path / "a") == sha256_bytes(b"abc")
    assert sha256_bytes(b"abc").startswith("ba7816bf")  # the published test vector of SHA-256
