"""Staging: a Python function becomes a graph the first time it meets a kind of arguments (TensorFlow Eager, §2).

Read in this order: key.py (what makes two calls the same kind), trace.py (Python runs once, on tensors without values),
captures.py (tensors from outside), concrete.py (a graph and how it runs), function.py (the cache that users call).
"""

from .concrete import Capture, Concrete
from .escape import init_scope, is_tracing, py_call
from .function import Function, function
from .spec import Spec
from .store import load

__all__ = ["Capture", "Concrete", "Function", "Spec", "function", "init_scope", "is_tracing", "load", "py_call"]
