"""Every private name of torch that the room uses still does what it is used for."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from drivetrain.graph import _torch_compat as compat


def test_tracing_and_retracing():
    mode = FakeTensorMode()
    fake = mode.from_tensor(torch.ones(2, 3))
    assert compat.is_fake(fake) and not compat.is_fake(torch.ones(1)) and compat.real_tensor(torch.ones(1))
    assert compat.fake_mode_of([1, fake]) is mode
    tracer = compat.RecordingTracer()
    module = compat.trace_flat(lambda x: torch.nn.functional.linear(x, x), [fake], mode, tracer, pre_dispatch=True)
    assert [str(n.target) for n in module.graph.nodes if n.op == "call_function"] == ["aten.linear.default"]
    node = next(n for n in module.graph.nodes if n.op == "call_function")
    assert node.meta["grad"] is True and "test_compat.py" in node.meta["stack_trace"]
    lowered = compat.retrace(module, [fake], mode)
    assert "aten.mm.default" in [str(n.target) for n in lowered.graph.nodes]
    assert compat.plain_fake(fake).shape == fake.shape and type(compat.stand_in(fake)) is torch.Tensor


def test_symbols():
    environment = compat.shape_environment(whole_range=True)
    mode = FakeTensorMode(shape_env=environment)
    with compat.size_oblivious(True):
        fake = compat.fake_input(mode, torch.ones(4, 3), "x", [True, False])
    assert str(compat.symbol_name(fake.shape[0])).startswith("s") and fake.shape[1] == 3
    assert compat.hint_of(fake.shape[0]) == 4
    bool(fake.shape[0] > 3)
    assert len(compat.size_guards(environment)) == 1
    assert "3" in compat.python_text(compat.size_guards(environment)[0])


def test_leaving_modes():
    with FakeTensorMode():
        with compat.outside_modes():
            assert type(torch.ones(1)) is torch.Tensor
        assert compat.is_fake(torch.ones(1))


def test_functional_wrappers_and_kept_graphs():
    seen = []
    torch.func.vmap(lambda x: seen.append(compat.is_wrapped(x)) or x)(torch.ones(2))
    assert seen == [True] and not compat.is_wrapped(torch.ones(1))
    kept = []
    x = torch.ones(1, requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: kept.append(compat.graph_is_kept()))
    y.backward(retain_graph=True)
    y.backward()
    assert kept == [True, False]
