"""Errors carry their three parts everywhere, also between processes."""

import pickle

import pytest

from drivetrain.base.errors import (
    DrivetrainError,
    InvalidValue,
    MissingExtra,
    MissingFile,
    RunFailed,
    check_options,
    nearest,
    unknown_name,
)
from drivetrain.base.extras import require


def test_an_error_shows_message_hint_and_place_in_this_order():
    error = InvalidValue("train: epochs is -1", hint="1 or more", where="drive.toml, line 3: [train] epochs")
    assert str(error).splitlines() == ["train: epochs is -1", "1 or more", "(drive.toml, line 3: [train] epochs)"]


@pytest.mark.parametrize("kind", [DrivetrainError, InvalidValue, MissingFile, MissingExtra])
def test_an_error_survives_the_way_between_processes(kind):
    error = kind("what", hint="how", where="there")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back)) == (kind, str(error))


def test_errors_are_the_fitting_builtin_too():
    assert issubclass(InvalidValue, ValueError)
    assert issubclass(MissingFile, FileNotFoundError)
    assert issubclass(MissingExtra, ImportError)


def test_the_nearest_name_is_suggested():
    assert nearest("yelowfin", ["sgd", "yellowfin", "adam"]) == "yellowfin"
    assert nearest("ADAM", ["sgd", "adam"]) == "adam"
    assert nearest("zzz", ["sgd", "adam"]) is None
    assert "did you mean 'yellowfin'?" in str(unknown_name("optim: optimizer", "yelowfin", ["sgd", "yellowfin"]))


def test_an_option_that_a_thing_does_not_take_is_refused_with_the_nearest():
    check_options("comm: codec 'raw'", ["s"], ["s", "block"])
    with pytest.raises(InvalidValue) as refused:
        check_options("comm: codec '3lc'", ["blok"], ["s", "block"])
    assert str(refused.value) == "comm: codec '3lc' takes no option 'blok'\ndid you mean 'block'? allowed: block, s"
    with pytest.raises(RunFailed, match="it takes none"):
        check_options("comm: rule 'median'", ["m"], [], RunFailed)


def test_a_missing_extra_tells_the_install_line():
    with pytest.raises(MissingExtra, match=r'pip install "drivetrain\[video\]"'):
        require("no_such_library_at_all", extra="video")
