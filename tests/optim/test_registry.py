"""Optimizers by name, the user's own, and clear answers to mistakes."""

import subprocess
import sys
import textwrap

import pytest
import torch

from drivetrain.base.errors import InvalidValue
from drivetrain.optim import YellowFin, build, names

from .scripted import parameters


@pytest.mark.parametrize(
    ("name", "kind"),
    [("yellowfin", YellowFin), ("sgd", torch.optim.SGD), ("Adam", torch.optim.Adam), ("ADAMW", torch.optim.AdamW)],
)
def test_names_build_the_class(name, kind) -> None:
    assert type(build(name, parameters((2,)))) is kind


def test_every_optimizer_of_torch_is_known() -> None:
    assert {"yellowfin", "sgd", "adam", "adamw", "lbfgs", "rmsprop", "adagrad"} <= set(names())


def test_options_reach_the_optimizer_and_lists_become_tuples() -> None:
    group = build("adamw", parameters((2,)), lr=1, betas=[0.8, 0.9]).param_groups[0]
    assert (group["lr"], group["betas"]) == (1, (0.8, 0.9))
    assert build("yellowfin", parameters((2,)), beta=0.99).options.beta == 0.99


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adan", {}, ["'adan' is unknown", "did you mean"]),
        ("yellowfish", {}, ["did you mean 'yellowfin'"]),
        ("sgd", {"momentun": 0.9}, ["sgd takes no option 'momentun'", "did you mean 'momentum'"]),
        ("yellowfin", {"windows": 3}, ["did you mean 'window'"]),
        ("sgd", {"lr": "fast"}, ["option lr is 'fast'"]),
        ("sgd", {"nesterov": "yes"}, ["option nesterov is 'yes'", "boolean"]),
        ("sgd", {"lr": -1.0}, ["sgd could not be built", "Invalid learning rate"]),
        ("yellowfin", {"beta": 2.0}, ["beta", "got 2.0"]),
        ("nosuchmodule_x:thing", {}, ["no module 'nosuchmodule_x'"]),
        ("torch.optim:Adan", {}, ["has no 'Adan'", "did you mean 'Adam'"]),
        ("torch:Tensor", {}, ["could not be built|gave a Tensor"]),
        ("torch:pi", {}, ["is a float, not a class or function"]),
        (":", {}, ["module:attribute"]),
    ],
)
def test_mistakes_are_answered(name, options, words) -> None:
    with pytest.raises(InvalidValue) as error:
        build(name, parameters((2,)), **options)
    for word in words:
        assert any(part in str(error.value) for part in word.split("|"))


def test_the_users_own_optimizer_is_found_in_the_given_folder(tmp_path) -> None:
    (tmp_path / "my_own_optimizer.py").write_text(
        textwrap.dedent("""
        import torch

        class Plain(torch.optim.SGD):
            pass

        def make(params, lr: float = 0.5):
            return Plain(params, lr=lr)
        """)
    )
    optimizer = build("my_own_optimizer:make", parameters((2,)), folder=tmp_path, lr=0.25)
    assert type(optimizer).__name__ == "Plain" and optimizer.param_groups[0]["lr"] == 0.25
    with pytest.raises(InvalidValue, match="takes no option 'rate'"):
        build("my_own_optimizer:make", parameters((2,)), folder=tmp_path, rate=0.25)


def test_the_room_imports_nothing_heavy() -> None:
    code = (
        "import sys, drivetrain.optim; "
        "print([m for m in ('scipy', 'pandas', 'matplotlib', 'pyarrow', 'torch._dynamo', 'typer') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
