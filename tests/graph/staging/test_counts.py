"""How often a function is traced: the table of known answers, and what makes two calls one kind."""

import enum

import numpy as np
import pytest
import torch

from drivetrain.graph.errors import SpecError, TraceLimitError
from drivetrain.graph.staging import Spec, function

X = torch.arange(2.0)


def counted(calls, **settings):
    """Trace count after calls given as (args, kwargs)."""

    @function(backend="eager", **settings)
    def f(x, k=1):
        return x * 2

    for args, kwargs in calls:
        f(*args, **kwargs)
    return f.trace_count


def test_a_static_number_counts_by_value():
    assert counted([((X, k), {}) for k in (1, 2, 3, 4)]) == 4


def test_the_budget_names_the_argument_that_varies():
    with pytest.raises(TraceLimitError, match=r"k had 4 values: 1, 2, 3, 4"):
        counted([((X, k), {}) for k in (1, 2, 3, 4)], max_traces=3)


@pytest.mark.parametrize(("dynamic", "traces"), [("auto", 2), (False, 6), (True, 1)])
def test_batches_of_two_to_seven(dynamic, traces):
    assert counted([((torch.zeros(n, 3),), {}) for n in range(2, 8)], dynamic=dynamic) == traces


def test_a_spec_makes_one_trace_for_all_sizes():
    @function(backend="eager", signature=(Spec(("B", 2)),))
    def f(x):
        return x.sum(1) * x.shape[0]

    for n in (2, 3, 7, 1, 0):
        assert torch.equal(f(torch.ones(n, 2)), torch.full((n,), 2.0 * n))
    assert f.trace_count == 1


def test_strings_come_back_to_their_trace():
    assert counted([((X, k), {}) for k in ("a", "b", "a")]) == 2


def test_clear_forgets():
    @function(backend="eager")
    def f(x):
        return x + 1

    f(X), f(X), f.clear(), f(X)
    assert f.trace_count == 1


def test_requires_grad_grad_mode_and_dtype_are_kinds():
    assert counted([((X.clone().requires_grad_(g),), {}) for g in (True, False, True)]) == 2
    assert counted([((X.float(),), {}), ((X.double(),), {})]) == 2

    @function(backend="eager")
    def f(x):
        return x + 1

    f(X)
    with torch.no_grad():
        f(X), f(X)
    assert f.trace_count == 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        f(X), f(X)
    assert f.trace_count == 3
    with torch.inference_mode():
        f(X)
    assert f.trace_count == 4


def test_autocast_is_what_it_was_at_the_call():
    @function(backend="eager")
    def f(x):
        return x @ x

    x = torch.randn(2, 2)
    assert f(x).dtype is torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert f(x).dtype is f(x).dtype is torch.bfloat16
    assert f(x).dtype is torch.float32


def test_structure_counts_and_the_order_of_keywords_does_not():
    @function(backend="eager")
    def f(pair, k=1, m=2):
        return pair[0] * k + pair[1] * m

    f((X, X)), f([X, X])
    assert f.trace_count == 2
    f((X, X), k=3, m=4), f((X, X), m=4, k=3), f((X, X), 3, 4), f(pair=(X, X), k=3, m=4)
    assert f.trace_count == 3


def test_defaults_that_are_spelled_out_are_the_same_call():
    assert counted([((X,), {}), ((X, 1), {}), ((X,), {"k": 1}), ((), {"x": X})]) == 1


def test_numbers_that_are_equal_but_not_the_same():
    assert counted([((X, k), {}) for k in (1, 1.0, True)]) == 3

    @function(backend="eager")
    def f(x, k):
        return x / k

    one = torch.ones(1)
    assert f(one, 0.0).item() == float("inf") and f(one, -0.0).item() == float("-inf")
    nan = float("nan")
    assert f(one, nan).isnan().all() and f(one, nan).isnan().all() and f.trace_count == 3


def test_layouts_and_arrays_and_enums():
    x = torch.zeros(2, 3, 4, 4)
    assert counted([((x,), {}), ((x.to(memory_format=torch.channels_last),), {}), ((x,), {})]) == 2
    assert counted([((np.zeros(2),), {}), ((np.ones(2),), {})]) == 1
    color = enum.Enum("color", "red blue")
    assert counted([((X, color.red), {}), ((X, color.blue), {}), ((X, color.red), {})]) == 2


def test_a_declared_static_tensor_is_part_of_the_graph():
    @function(backend="eager", static="k")
    def f(x, k):
        return x * float(k)

    two, three = torch.tensor(2.0), torch.tensor(3.0)
    assert f(X, two).tolist() == [0, 2] and f(X, three).tolist() == [0, 3] and f(X, two).tolist() == [0, 2]
    assert f.trace_count == 2


def test_instances_have_traces_of_their_own():
    class Scale:
        def __init__(self, k):
            self.k = k

        @function(backend="eager")
        def __call__(self, x):
            return x * self.k

        @function(backend="eager")
        def go(self, x):
            return x * self.k

    a, b = Scale(2), Scale(3)
    assert a.go(X).tolist() == [0, 2] and b.go(X).tolist() == [0, 3] and a.go(X.double()).tolist() == [0, 2]
    assert a.go.trace_count == 2 and b.go.trace_count == 1


def test_relations_that_a_trace_relied_on_are_checked():
    @function(backend="eager", dynamic=True)
    def f(x):
        return x * 2 if x.shape[0] > 4 else x * 3

    assert f(torch.ones(3))[0] == 3 and f(torch.ones(4))[0] == 3
    assert f.trace_count == 1
    assert f(torch.ones(6))[0] == 2 and f.trace_count == 2
    assert f(torch.ones(2))[0] == 3 and f(torch.ones(9))[0] == 2 and f.trace_count == 2


def test_sizes_shared_by_two_arguments():
    @function(backend="eager", signature=(Spec(("B", 2)), Spec(("B",))))
    def f(x, y):
        return (x.sum(1) + y).sum()

    assert f(torch.ones(3, 2), torch.ones(3)).item() == 9
    with pytest.raises(SpecError, match=r"y is float32\[4\] \(B is 3 elsewhere"):
        f(torch.ones(3, 2), torch.ones(4))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.ones(3, 3), r"x is float32\[3, 3\], the signature says float32\[B:1..4, 2\]"),
        (torch.ones(3, 2).double(), r"x is float64\[3, 2\]"),
        (torch.ones(9, 2), r"B = 9 is outside 1..4"),
        (3, r"x is a int"),
        (torch.ones(2), r"x is float32\[2\]"),
    ],
)
def test_a_call_that_does_not_fit_the_signature(value, says):
    @function(backend="eager", signature=(Spec(("B:1..4", 2)),))
    def f(x):
        return x

    f(torch.ones(2, 2))
    with pytest.raises(SpecError, match=says):
        f(value)
    assert f.trace_count == 1


def test_a_signature_that_promises_too_much():
    @function(backend="eager", signature=(Spec(("B",)),))
    def f(x):
        return x * 2 if x.shape[0] > 3 else x

    f(torch.ones(8))
    with pytest.raises(SpecError, match=r"its code needs .*x\.shape\[0\]"):
        f(torch.ones(2))


def test_beyond_the_limit_eagerly_with_one_warning(capsys):
    @function(backend="eager", max_traces=1, on_limit="eager")
    def f(x, k):
        return x * k

    assert [f(X, k)[1].item() for k in (1, 2, 3)] == [1, 2, 3]
    assert f.eager_calls == 2 and f.trace_count == 1
    assert capsys.readouterr().err.count("run eagerly") == 1


def test_explain_tells_what_differs():
    @function(backend="eager")
    def f(x, k=1):
        return x * k

    assert "not traced yet" in f.explain(X)
    f(X)
    assert "runs trace 1 of 1" in f.explain(X)
    assert "k is 2, the trace has 1" in f.explain(X, 2)
    assert "x is float64[2], the trace has float32[2]" in f.explain(X.double())
    with torch.no_grad():
        assert "grad mode is False, the trace has True" in f.explain(X)
    assert f.trace_count == 1


def test_a_concrete_from_specs_runs_nothing():
    ran = []

    @function(backend="eager", effects="ignore", dynamic=False)
    def f(x):
        ran.append(type(x).__name__)
        return x * 2

    made = f.concrete(Spec((2, 3)))
    assert ran == ["FakeTensor"] and "float32[2, 3]" in repr(made)
    assert made(torch.ones(2, 3)).sum() == 12 and f(torch.ones(2, 3)).sum() == 12 and f.trace_count == 1
    with pytest.raises(SpecError, match=r"argument x is float32\[3\], this graph takes float32\[2, 3\]"):
        made(torch.ones(3))


def test_settings_that_nobody_knows():
    for settings, says in (
        ({"max_trace": 3}, "did you mean 'max_traces'"), ({"backend": "inducter"}, "did you mean 'inductor'"),
        ({"static": "j"}, "static argument 'j' is unknown"), ({"max_traces": 0}, "at least 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):

            @function(**settings)
            def f(x, k):
                return x

    with pytest.raises(TypeError, match="missing a required argument"):
        function(lambda x, y: x, backend="eager")(X)
    with pytest.raises(TypeError, match="unexpected keyword"):
        function(lambda x: x, backend="eager")(X, z=1)


def test_specs_are_read_from_text():
    assert str(Spec.parse("B:1..64,3,224,224:f32")) == "float32[B:1..64, 3, 224, 224]"
    assert Spec.parse("*,N:i64") == Spec((None, "N"), torch.int64)
    assert Spec.parse("f32") == Spec(())
    for text, says in (
        ("3,4", "no Spec"),
        ("3:f33", "did you mean"),
        ("3-4:f32", "no name"),
        ("B:4..2,3:f32", "empty"),
    ):
        with pytest.raises(ValueError, match=says):
            Spec.parse(text).dims  # noqa: B018
