"""`drivetrain comm bench`: real ranks on loopback; bad input."""

import json

import pytest


def test_bench_measures_every_method_beside_plain_ddp(cli):
    ended = cli("comm", "bench", "--ranks", "2", "--hidden", "32", "--steps", "2", "--codec", "3lc,fp16-hook", "--json")
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert [method["name"] for method in found["methods"]] == ["ddp", "3lc", "fp16-hook"]
    assert all(method["seconds"] > 0 for method in found["methods"])
    assert found["methods"][0]["ratio"] == 1.0
    assert found["parameters"] == 785 * 32 + 33 * 32 + 33 * 10
    assert "2 ranks, loopback" in found["verdict"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--codec", "3cl"), "did you mean '3lc'"),
        (("--codec", "powersgd:0"), "codec 'powersgd:0' is unknown"),
        (("--ranks", "1"), "needs 2 ranks"),
        (("--rate", "20mbits"), "20mbits"),
    ],
)
def test_bad_input_is_told(cli, arguments, part):
    ended = cli("comm", "bench", *arguments)
    assert ended.exit_code == 2
    assert part in ended.stderr
