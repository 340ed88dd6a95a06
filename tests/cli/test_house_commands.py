"""The command line itself: help, unknown commands, systems, doctor."""

import json
import subprocess
import sys

from drivetrain.cli.main import HOUSE, ROOMS
from drivetrain.systems import SYSTEMS


def test_help_lists_every_command_and_imports_no_room(cli):
    result = cli()
    assert result.exit_code == 0
    for name in (*HOUSE, *ROOMS):
        assert name in result.stdout
    program = (
        "import sys; from drivetrain.cli.main import run; run(['--help']); "
        "loaded = {name.split('.')[1] for name in sys.modules if name.startswith('drivetrain.')}; "
        "sys.exit(bool(loaded & {'data', 'optim', 'ci'}))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_every_room_has_commands_with_help(cli):
    for room in ROOMS:
        result = cli(room, "--help")
        assert result.exit_code == 0, room
        assert "Commands" in result.stdout


def test_an_unknown_command_suggests_the_nearest(cli):
    result = cli("dtaa", "stats")
    assert result.exit_code == 2
    assert "there is no command 'dtaa'" in result.stderr
    assert "did you mean 'data'?" in result.stderr


def test_a_wrong_option_names_the_help(cli):
    result = cli("systems", "--jsn")
    assert result.exit_code == 2
    assert "no such option" in result.stderr.lower()
    assert "drivetrain systems --help" in result.stderr


def test_version(cli):
    assert cli("--version").stdout.startswith("drivetrain 0.")


def test_systems_lists_all_twenty_five_with_their_state(cli):
    text = cli("systems").stdout
    assert f"{sum(system.works for system in SYSTEMS)} of 25 systems work" in text
    listed = json.loads(cli("systems", "--json").stdout)
    assert {entry["number"] for entry in listed} == set(range(1, 26))
    assert all((entry["state"] == "works") == entry["works"] for entry in listed)


def test_doctor_tells_what_is_missing_and_the_remedy(cli, monkeypatch):
    monkeypatch.setenv("DRIVETRAIN_NATIVE", "0")
    parts = {entry["part"]: entry for entry in json.loads(cli("doctor", "--json").stdout)}
    assert parts["torch"]["present"]
    assert not parts["C++ compiler"]["present"]
    assert "g++" in parts["C++ compiler"]["remedy"]
    assert {"browser", "GPU", "network namespaces", "extra [data]", "extra [ci]"} <= parts.keys()
    assert "parts are here" in cli("doctor").stdout
