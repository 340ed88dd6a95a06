"""What the testbed reads and what it refuses: rates, queues, counts, scripts, a machine without root or tc."""

from __future__ import annotations

import os
import sys

import pytest

from drivetrain.base.errors import InvalidValue, MissingFile
from drivetrain.comm import testbed
from drivetrain.comm.testbed_links import make_link


@pytest.mark.parametrize(
    ("written", "bits"),
    [
        ("20mbit", 20_000_000),
        ("1gbit", 10**9),
        ("2.5GBit", 2_500_000_000),
        ("64kbit", 64_000),
        (1e6, 10**6),
        ("1e6", 10**6),
    ],
)
def test_rates(written, bits):
    assert testbed.parse_rate(written) == bits


@pytest.mark.parametrize("written", ["20mb", "20mbps", "fast", "", "-1mbit", 0, "0gbit", 20, float("nan"), True])
def test_rates_that_are_refused(written):
    """tc reads "20mbps" as megabytes, eight times what was meant; 20 is a forgotten unit."""
    with pytest.raises(InvalidValue, match="rate"):
        testbed.parse_rate(written)


def test_queues():
    """tc tbf's own rule: limit = rate * latency + burst. A bucket of 16 KiB can't hold a frame of 64."""
    link = make_link("20mbit", "256kb", 0.1)
    assert link.tbf() == ["tbf", "rate", "20000000bit", "burst", "262144", "limit", "512144"]
    assert link.largest_frame is None
    assert make_link("20mbit", "16kb", limit="64kb").tbf() == [
        "tbf",
        "rate",
        "20000000bit",
        "burst",
        "16384",
        "limit",
        "65536",
    ]
    assert make_link("20mbit", "16kb").largest_frame == 8192
    for wrong in ({"burst": "16 kilobytes"}, {"burst": 100}, {"latency": 0}, {"limit": "-1kb"}):
        with pytest.raises(InvalidValue, match=next(iter(wrong))):
            make_link("20mbit", **wrong)


def test_bad_input_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(InvalidValue, match="world_size 0"):
        testbed.star(0, "20mbit")
    with pytest.raises(InvalidValue, match="round-robin"):
        testbed.racks(2, 2, host_rate=None, uplink_rate=None, deal="round robin")
    with testbed.loopback(1) as bed:
        with pytest.raises(MissingFile, match=r"no script .*absent\.py"):
            bed.run(tmp_path / "absent.py")
        with pytest.raises(InvalidValue, match="neither a script nor a module"):
            bed.run("train model")
        with pytest.raises(InvalidValue, match="loopback form has no links"):
            with bed.compete("1mbit"):
                pass


def test_competitors_that_are_refused():
    if reason := testbed.available():
        pytest.skip(reason)
    with testbed.star(2, "20mbit", extra_hosts=2) as bed:
        for arguments, message in (
            ({"sink": "extra1"}, "shares no link with a rank"),
            ({"source": "extra7"}, "did you mean"),
            ({"kind": "icmp"}, "allowed: tcp, udp"),
        ):
            with pytest.raises(InvalidValue, match=message):
                with bed.compete("1mbit", **arguments):
                    pass


def test_without_root_it_says_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if sys.platform == "linux":
        assert testbed.available() == "network namespaces need root (run with sudo)"
    with pytest.raises(testbed.Unavailable, match="need") as caught:
        with testbed.star(2, "20mbit"):
            pass
    assert "loopback(world_size)" in str(caught.value)


def test_without_tc_it_says_so(monkeypatch, tmp_path):
    if sys.platform != "linux":
        pytest.skip("another reason comes first")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "ip").write_text("#!/bin/sh\n")
    (tmp_path / "ip").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert testbed.available() == "no `tc` command (apt install iproute2)"


def test_hand_back_outside_a_testbed_prints(monkeypatch, capsys):
    monkeypatch.delenv("DRIVETRAIN_RESULT", raising=False)
    testbed.hand_back({"loss": 0.5})
    assert capsys.readouterr().out == '{"loss": 0.5}\n'
