"""Optimizers by name: yellowfin, any of torch.optim, or the user's own "module:attribute"."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivetrain.base.errors import DrivetrainError, InvalidValue, check_options, unknown_name
from drivetrain.base.modules import load_attribute

from .yellowfin import YellowFin


@functools.cache
def names() -> tuple[str, ...]:
    """Every name that `build` knows, sorted: yellowfin and the optimizers of torch.optim, in lower case."""
    return tuple(sorted(["yellowfin", *_torch_optimizers()]))


def build(
    name: str, params: Iterable[Any], *, folder: str | Path | None = None, **options: Any
) -> torch.optim.Optimizer:
    """Build an optimizer by name.

    Args:
        name: one of `names()`, in any case, or "module:attribute", a class or function called as (params, **options).
        params: parameters or parameter groups.
        folder: where "module:attribute" is looked for first; None is the working folder.
        options: keyword arguments of the optimizer; a list stands for a tuple, as TOML has no tuples.

    Raises:
        InvalidValue: an unknown name or option (the nearest is suggested), a value of the wrong type or out of range.
    """
    make = _find(name, folder)
    checked = _checked(name, make, options)
    try:
        optimizer = make(params, **checked)
    except DrivetrainError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"optim: {name} could not be built with {options or 'no options'}: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidValue(f"optim: {name} gave a {type(optimizer).__name__}, not a torch.optim.Optimizer")
    return optimizer


@functools.cache
def _torch_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    found = {}
    for name in dir(torch.optim):
        value = getattr(torch.optim, name)
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer:
            found[name.lower()] = value
    return found


def _find(name: str, folder: str | Path | None) -> Callable[..., Any]:
    if ":" in name:
        make = load_attribute(name, Path(folder or Path.cwd()))
        if not callable(make):
            raise InvalidValue(f"optim: {name} is a {type(make).__name__}, not a class or function")
        return make
    known: dict[str, Callable[..., Any]] = {"yellowfin": YellowFin, **_torch_optimizers()}
    if name.lower() not in known:
        raise unknown_name("optim: optimizer", name, names())
    return known[name.lower()]


def _checked(name: str, make: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options against the signature: names always, types where they are annotated."""
    try:
        parameters = list(inspect.signature(make).parameters.values())[1:]
    except (TypeError, ValueError):
        return options
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return options
    allowed = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    check_options(f"optim: {name}", options, allowed)
    hints = _hints(make)
    return {option: _check_type(name, option, value, hints.get(option)) for option, value in options.items()}


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except Exception:  # an annotation that can't be evaluated: the constructor itself must judge
        return {}


def _check_type(name: str, option: str, value: Any, hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if hint is None or isinstance(value, Tensor):
        return value
    if isinstance(value, list):
        value = tuple(value)
    try:
        TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True)).validate_python(value)
    except ValidationError as error:
        reason = "; ".join(dict.fromkeys(detail["msg"][0].lower() + detail["msg"][1:] for detail in error.errors()))
        raise InvalidValue(f"optim: {name}: option {option} is {value!r}", hint=reason) from None
    except Exception:  # a type pydantic knows nothing about
        return value
    return value
