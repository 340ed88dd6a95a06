"""A configuration error names file, line, key, value, and what is allowed."""

from typing import Literal

import pytest
from pydantic import Field

from drivetrain.base.config import Section, line_of, parse_toml, read_toml
from drivetrain.base.errors import InvalidValue, MissingFile


class Inner(Section):
    epochs: int = Field(1, ge=1)
    mode: Literal["fast", "slow"] = "fast"


class Outer(Section):
    name: str
    train: Inner = Inner()


def error_of(text: str, **options) -> str:
    with pytest.raises(InvalidValue) as caught:
        parse_toml(text, Outer, name="drive.toml", **options)
    return str(caught.value)


def test_a_good_file_is_read(tmp_path):
    (tmp_path / "d.toml").write_text('name = "x"\n[train]\nepochs = 3\n')
    assert read_toml(tmp_path / "d.toml", Outer).train.epochs == 3
    assert read_toml(tmp_path / "d.toml", Inner, table="train").epochs == 3


def test_an_unknown_key_suggests_the_nearest_and_names_the_line():
    text = error_of('name = "x"\n\n[train]\nepocs = 3\n')
    assert "'train.epocs' is no key here" in text
    assert "did you mean 'epochs'?" in text
    assert "drive.toml, line 4: [train] epocs" in text


def test_a_wrong_type_and_a_wrong_value_name_what_is_allowed():
    assert "'train.epochs' is 'many'" in error_of('name = "x"\ntrain.epochs = "many"\n')
    assert "greater than or equal to 1" in error_of('name = "x"\n[train]\nepochs = 0\n')
    assert "'fast' or 'slow'" in error_of('name = "x"\n[train]\nmode = "quick"\n')


def test_a_missing_key_and_a_syntax_error_are_placed():
    assert "'name' is missing" in error_of("[train]\n")
    assert "line 2" in error_of('name = "x"\nname = "y"\n')


def test_an_override_wins_and_is_named_when_wrong():
    assert parse_toml('name = "x"', Outer, overrides=["train.epochs=7", "name=plain"]).model_dump() == {
        "name": "plain",
        "train": {"epochs": 7, "mode": "fast"},
    }
    assert "--set train.epochs" in error_of('name = "x"\n[train]\nepochs = 3\n', overrides=["train.epochs=0"])
    assert "is not KEY=VALUE" in error_of('name = "x"', overrides=["train.epochs"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFile, match="nowhere.toml"):
        read_toml(tmp_path / "nowhere.toml", Outer)


def test_lines_are_found_for_keys_tables_and_dotted_keys():
    text = 'a = 1\n[b.c]\nd = 2\n"e" = 3\n[f]\ng.h = 4\n'
    paths = [("a",), ("b", "c"), ("b", "c", "d"), ("b", "c", "e"), ("f", "g", "h")]
    assert [line_of(text, path) for path in paths] == [1, 2, 3, 4, 6]
