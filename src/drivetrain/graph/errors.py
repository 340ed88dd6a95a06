"""What can go wrong on the way from Python to a graph, told with the user's own file and line."""

from __future__ import annotations

import functools
import linecache
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch

from drivetrain.base.errors import DrivetrainError, InvalidValue, RunFailed

_STDLIB = Path(sysconfig.get_paths()["stdlib"])
_NOT_USER = tuple(
    str(path)
    for path in (
        Path(torch.__file__).resolve().parent,
        Path(__file__).resolve().parents[1],
    )
)


class CaptureError(InvalidValue):
    """A model or function that can't become a graph; names the operation, the source line and a way out."""


class ControlFlowError(CaptureError):
    """Python control flow depends on the values of a tensor, which a graph does not have while it is traced."""


class SpecError(InvalidValue):
    """An argument that does not fit the declared signature; names the argument, what was found, what is wanted."""


class StateCreationError(InvalidValue):
    """State (a parameter, a buffer, a tensor attribute) was created in another call than the first."""


class TraceLimitError(InvalidValue):
    """A function was traced more often than `max_traces` allows; names the argument that keeps changing."""


class NotSerializableError(InvalidValue):
    """A graph that needs Python at run time (a `py_call`) can't be written to a file."""


class SideEffectError(InvalidValue):
    """The traced function has an effect on Python that no later call would repeat."""


class StaleTraceError(RunFailed):
    """Shadow mode: the graph and the Python body disagree, so the trace holds a Python value that has changed."""


@dataclass(frozen=True)
class Line:
    """A line of somebody's source."""

    file: str
    number: int
    function: str
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number} in {self.function}: {self.code}".rstrip(": ")

    @property
    def short(self) -> str:
        """file:line alone."""
        return f"{self.file}:{self.number}"


@functools.cache
def is_user_file(path: str) -> bool:
    """Whether a file is neither torch nor drivetrain nor Python's own machinery."""
    if path.startswith(str(_STDLIB)) and "-packages" not in path[len(str(_STDLIB)) :]:
        return False  # installed libraries may lie inside the standard library's folder
    return not path.startswith(_NOT_USER) and not path.startswith("<")


def line_of_error(error: BaseException) -> Line | None:
    """The innermost line of user code that an error came through."""
    return _innermost(error.__traceback__)


def _innermost(trace: TracebackType | None) -> Line | None:
    found = None
    for frame, number in traceback.walk_tb(trace):
        if is_user_file(frame.f_code.co_filename):
            found = _line(frame, number)
    return found


def current_line() -> Line | None:
    """The innermost line of user code that is running now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            return _line(frame, frame.f_lineno)
        frame = frame.f_back
    return None


def _line(frame: FrameType, number: int) -> Line:
    file = frame.f_code.co_filename
    return Line(file, number, frame.f_code.co_name, linecache.getline(file, number).strip())


def explain_failure(error: BaseException, what: str) -> DrivetrainError:
    """Turn what torch raised while tracing into an error with a source line and a hint.

    Args:
        error: as raised.
        what: what was being traced, for the message.
    """
    if isinstance(error, DrivetrainError):
        return error
    line = line_of_error(error)
    at = str(line) if line is not None else None
    kind = type(error).__name__
    first = str(error).strip().splitlines()[0] if str(error).strip() else kind
    code = line.code if line is not None else ""
    if kind in _DATA_DEPENDENT or "data-dependent" in first or "value out of a tracing tensor" in first:
        reads = next((name for name in (".item()", ".tolist()", "int(", "float(", "bool(") if name in code), None)
        if reads or kind == "DynamicOutputShapeException":
            return ControlFlowError(
                f"graph: {what}: Python asks for a tensor's value, which is not known while tracing",
                hint="keep the value in a tensor (torch.where, masks), use drivetrain.py_call for what must be Python, "
                "or pass the number as an argument",
                where=at,
            )
        return ControlFlowError(
            f"graph: {what}: a Python branch depends on a tensor's values",
            hint="use torch.cond(pred, true_fn, false_fn, operands) or torch.where; "
            "torch.while_loop for a loop that ends by a tensor's value",
            where=at,
        )
    if isinstance(error, RecursionError):
        return CaptureError(
            f"graph: {what}: the function calls itself without end while it is traced",
            hint="a staged recursion must end by a Python value (an int argument), not by a tensor's",
            where=at,
        )
    return CaptureError(
        f"graph: {what} can't be traced: {kind}: {first[:300]}",
        hint="does it run eagerly with these arguments? what is no tensor operation belongs into drivetrain.py_call",
        where=at,
    )


_DATA_DEPENDENT = {
    "GuardOnDataDependentSymNode",
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "UserError",
    "PendingUnbackedSymbolNotFound",
}
