"""Forms run in turn: on copies, without the caller's hooks, gradients and random numbers; a tie goes to the first."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from drivetrain.base.timing import Timing
from drivetrain.graph.race import LEAST, MOST, fastest, race, stand_in_for


def test_nothing_of_the_caller_changes():
    weight = torch.nn.Parameter(torch.ones(3))
    state, fired = torch.zeros(3), []
    weight.register_hook(lambda grad: fired.append(grad))
    x = torch.ones(3, requires_grad=True) * 2  # no leaf: its own graph must not be walked

    def form(weight, state, x):
        state += 1
        assert torch.is_grad_enabled() and weight.requires_grad and x.is_leaf
        return (torch.nn.functional.dropout(weight * x + state),)

    before = torch.get_rng_state()
    found = race({"a": form, "b": form}, [weight, state, x], backward=True, rounds=3)
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(state, torch.zeros(3))
    assert weight.grad is None and not fired and torch.is_grad_enabled()
    assert list(found) == ["a", "b"] and all(len(timing.samples) == 3 for timing in found.values())


@pytest.mark.parametrize(("written", "changed"), [((), True), ((0,), False), (None, False)])
def test_what_is_written_is_copied(written, changed):
    value = torch.zeros(1)
    race({"a": lambda v: (v.add_(1),)}, [value], written=written, rounds=1)
    assert bool(value != 0) is changed


def test_inference_needs_no_gradients():
    def form(x):
        assert not torch.is_grad_enabled() and not x.requires_grad
        return (x * 2,)

    race({"a": form}, [torch.ones(2, requires_grad=True)], rounds=1)


def test_rounds_fit_into_the_time():
    found = race({"quick": lambda x: (x + 1,)}, [torch.ones(1)], seconds=60.0)
    assert len(found["quick"].samples) == MOST
    found = race({"quick": lambda x: (x + 1,)}, [torch.ones(1)], seconds=0.0)
    assert len(found["quick"].samples) == LEAST


def test_fake_values_become_harmless_ones():
    with FakeTensorMode():
        image = torch.empty(2, 3, 4, 5, requires_grad=True).to(memory_format=torch.channels_last)
        index = torch.empty(7, dtype=torch.long)
    made = stand_in_for(image)
    assert made.stride() == image.stride() and made.requires_grad and bool((made > 0).all())
    assert torch.equal(stand_in_for(index), torch.zeros(7, dtype=torch.long)) and stand_in_for(3) == 3


@pytest.mark.parametrize(
    ("times", "expected"),
    [({"a": 1.0, "b": 0.99}, "a"), ({"a": 1.0, "b": 0.9, "c": 0.8}, "c"), ({"a": 1.0, "b": 2.0}, "a")],
)
def test_a_tie_goes_to_the_first(times, expected):
    assert fastest({name: Timing((seconds,)) for name, seconds in times.items()}, "a") == expected
