"""An optimised module is called as the original is and gives what it gives: structure, layout, aliases, state."""

import copy

import pytest
import torch
from torch import nn

from drivetrain.base.errors import DrivetrainError
from drivetrain.graph.cost import CostTable
from drivetrain.graph.lowering import find_runner, lacks, of_programs
from drivetrain.graph.rewrite import optimize
from drivetrain.graph.rewrite.meta import Meta
from drivetrain.graph.rewrite.optimized import same_layout

FORMATS = [torch.contiguous_format, torch.channels_last]
LOWERINGS = [name for name in of_programs() if name != "inductor"]


class Images(nn.Module):
    """Two images, one of them a slice for what merges its convolutions, a transposed matrix, and its own input."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)

    def forward(self, x):
        y = self.norm(self.b(x)).relu()
        return {"a": self.a(x), "b": y, "matrix": y.mean((2, 3)).t(), "same": x}


def candidates(model, args, then):
    """A result that nothing had to be timed for."""
    return optimize(model, args, table=CostTable(None), then=then, rounds=1, cost="launches")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("then", LOWERINGS)
def test_results_lie_as_the_originals(then, form):
    if lacks(then):
        pytest.skip(f"needs {lacks(then)}")
    model = Images().eval().to(memory_format=form)
    image = torch.randn(2, 3, 8, 8).contiguous(memory_format=form)
    result = candidates(model, (image,), then)
    assert not result.refused
    with torch.no_grad():
        expected = model(image)
        for label, _, build in result.searched:
            module = build()
            result.searched.fit(module, (image,), {})
            got = module(image)
            assert list(got) == list(expected)
            for name, one in expected.items():
                assert same_layout(Meta.of(one), Meta.of(got[name])), f"{label}: {name}"
                assert torch.allclose(one, got[name], atol=1e-5)
            assert got["same"] is image


def test_the_forms_differ_so_that_layouts_must_be_mended():
    """The guard of the test above: without `fit`, oneDNN gives channels last for a contiguous image."""
    result = candidates(Images().eval(), (torch.randn(2, 3, 8, 8),), "onednn")
    module = result.searched.build(result.searched.forms[0], find_runner("onednn"), channels_last=True)
    with torch.no_grad():
        assert module(torch.randn(2, 3, 8, 8))["a"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_copied_where_the_layout_is_right(form):
    net = nn.Conv2d(3, 4, 3).to(memory_format=form).eval()
    image = torch.randn(1, 3, 8, 8).contiguous(memory_format=form)
    for name in ("eager", "onednn"):
        result = candidates(net, (image,), name)
        (_, _, build), *_ = result.searched
        module = build()
        result.searched.fit(module, (image,), {})
        assert bool(module.results) == (form is torch.contiguous_format)


def test_the_rewritten_program_lies_as_the_original_does():
    image = torch.randn(2, 3, 8, 8)
    model = Images().eval()
    program = candidates(model, (image,), "eager").program()
    with torch.no_grad():
        for one, other in zip(model(image).values(), program(image).values(), strict=True):
            assert same_layout(Meta.of(one), Meta.of(other))


@pytest.fixture(params=LOWERINGS)
def linear(request):
    if lacks(request.param):
        pytest.skip(f"needs {lacks(request.param)}")
    model = nn.Linear(3, 2).eval()
    result = candidates(model, (torch.randn(4, 3),), request.param)
    return model, result.searched.build(result.searched.forms[0], find_runner(request.param), channels_last=False)


def test_other_sizes_dtypes_and_structures_are_refused(linear):
    _, module = linear
    for given, told in (
        ((torch.randn(5, 3),), r"float32 \[5, 3\]; optimised for torch.float32 \[4, 3\]"),
        ((torch.randn(4, 3).double(),), "float64"),
        ((3,), "called with int"),
        ((torch.randn(4, 3), 1), "called with the arguments"),
    ):
        with pytest.raises(DrivetrainError, match=told):
            module(*given)


def test_hooks_still_run(linear):
    _, module = linear
    seen = []
    module.register_forward_hook(lambda *_: seen.append("after"))
    module(torch.randn(4, 3))
    assert seen == ["after"]


def test_it_is_copied_and_holds_its_state(linear):
    model, module = linear
    again = copy.deepcopy(module)
    value = torch.randn(4, 3)
    with torch.no_grad():
        assert torch.allclose(again(value), model(value), atol=1e-6)
    names = set(again.state_dict())
    if not names:  # a session holds its weights itself
        return
    assert len(names) == 2 and "runner.bias" in names and any(name.startswith("runner.folded.") for name in names)
    with torch.no_grad():
        for parameter in [*again.parameters(), *again.buffers()]:
            parameter.zero_()
        assert not again(value).any() and module(value).any()


def test_a_flat_tuple_and_none_keep_their_form():
    class Model(nn.Module):
        def forward(self, x):
            return x + 1, x * 2

    result = candidates(Model().eval(), (torch.ones(2),), "eager")
    module = result.searched.build(result.searched.forms[0], find_runner("eager"), channels_last=False)
    out = module(torch.ones(2))
    assert isinstance(out, tuple) and torch.equal(out[1], torch.full((2,), 2.0))
