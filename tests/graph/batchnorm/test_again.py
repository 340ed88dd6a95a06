"""Sums that are made again in the backward: which are not kept, and the same gradients, to the bit (again.py)."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from drivetrain.graph.batchnorm import again, channels_last, modules, ops, patch_, rewrite, unpatch_
from drivetrain.nets.resnet import BasicBlock, Bottleneck

pytestmark = pytest.mark.skipif(channels_last.load() is None, reason="no C++ compiler")
ROWS = torch.channels_last


class Plain(nn.Module):
    """A block as most write it: the shortcut is the input itself; ReLU and sum in place, biases."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(64, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        shortcut = x
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        x += shortcut
        return self.relu(x)


def narrower():
    shortcut = nn.Sequential(nn.Conv2d(64, 128, 1, 2, bias=False), nn.BatchNorm2d(128))
    return Bottleneck(64, 32, 2, shortcut)


BLOCKS = {
    "bottleneck": lambda: Bottleneck(64, 16, 1, nn.Identity()),
    "basic": lambda: BasicBlock(64, 64, 1, nn.Identity()),
    "plain": Plain,
}


def chain(blocks, behind="conv", kind="bottleneck"):
    """A stem that a convolution reads, blocks, and what reads the last of them."""
    torch.manual_seed(0)
    last = {
        "conv": lambda: [nn.Conv2d(64, 8, 1)],
        "conv3x3": lambda: [nn.Conv2d(64, 8, 3, 2, padding=1, groups=2)],
        "downsample": lambda: [narrower(), nn.Conv2d(128, 8, 1)],
        "pool": lambda: [nn.MaxPool2d(2)],
        "dropout": lambda: [nn.Dropout(0.0)],
    }[behind]()
    stem = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *[BLOCKS[kind]() for _ in range(blocks)], *last)


def image(dtype=torch.float32):
    return torch.randn(3, 3, 10, 12, dtype=dtype, generator=torch.Generator().manual_seed(1)).to(memory_format=ROWS)


def gradients(model, x=None):
    model.zero_grad()
    model(image() if x is None else x).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def patched(model, monkeypatch=None, **options):
    """With monkeypatch: every sum kept, as before."""
    ours = copy.deepcopy(model)
    if monkeypatch is None:
        patch_(ours, level="bnff", **options)
        return ours
    with monkeypatch.context() as patch:
        patch.setattr(rewrite, "sums_made_again", lambda *_: {})
        patch_(ours, level="bnff", **options)
    return ours


def kept(run, monkeypatch, x=None):
    """Of each sum, in order, whether its memory is among what autograd keeps; and all bytes that it keeps."""
    sums, saved = [], {}

    def recorded(*arguments):
        found = ops_bn_relu(*arguments)
        if arguments[5] is not None:
            sums.append(found[0].detach())
        return found

    def pack(value):
        saved.setdefault(value.untyped_storage().data_ptr(), value.detach())
        return value

    ops_bn_relu = ops.bn_relu
    with monkeypatch.context() as patch, torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        patch.setattr(modules.ops, "bn_relu", recorded)
        run(image() if x is None else x)
    return [value.data_ptr() in saved for value in sums], sum(v.untyped_storage().nbytes() for v in saved.values())


@pytest.mark.parametrize(
    ("blocks", "behind", "wanted"),
    [
        (1, "conv", [False]),
        (2, "conv", [False, True]),
        (3, "conv", [False, True, False]),
        (1, "conv3x3", [False]),
        (1, "downsample", [False, True]),  # the shortcut's own sum is added to what nobody keeps
        (2, "downsample", [False, True, True]),
        (3, "downsample", [False, True, False, True]),
        (1, "pool", [True]),  # the pooling keeps its input
        (3, "pool", [False, True, True]),
        (3, "dropout", [False, True, False]),  # dropout in training keeps its mask alone
    ],
)
@pytest.mark.parametrize("kind", BLOCKS)
def test_every_second_sum_is_not_kept(blocks, behind, wanted, kind, monkeypatch):
    model = chain(blocks, behind, kind).to(memory_format=ROWS)
    ours, before = patched(model), patched(model, monkeypatch)
    found, size = kept(ours, monkeypatch)
    assert found == wanted
    all_kept, size_before = kept(before, monkeypatch)
    of_one = 3 * 64 * 10 * 12 * 4
    assert size_before - size == of_one * (sum(all_kept) - sum(found)) and sum(all_kept) >= len(wanted) - 1
    for a, b in zip(gradients(ours), gradients(before), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("behind", ["conv", "downsample"])
def test_gradients_are_those_of_float64(kind, behind):
    """Float32 in channels_last; a rounding of x may flip a ReLU, so a few times what eager itself is off."""
    model = chain(3, behind, kind).to(memory_format=ROWS)
    exact = gradients(copy.deepcopy(model).double(), image().double())
    eager = gradients(copy.deepcopy(model))

    def off(values):
        return max(
            float((a - b).norm() / b.norm()) for a, b in zip(values, exact, strict=True) if b.norm() > 1e-6 * b.numel()
        )

    assert off(gradients(patched(model))) <= max(1e-4, 3 * off(eager))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, ROWS])
def test_float64(kind, layout, monkeypatch):
    """In plain torch, as in NCHW, a sum keeps what it adds: only what no other sum adds is made again."""
    model = chain(3, "downsample", kind).double().to(memory_format=layout)
    ours = patched(model, reference=True)
    x = image(torch.float64).to(memory_format=layout)
    assert kept(ours, monkeypatch, x)[0] == [True, True, False, True]
    for a, b in zip(gradients(ours, x), gradients(model, x), strict=True):
        assert float((a - b).norm()) <= 1e-10 * max(1.0, float(b.norm()))


def test_planes(monkeypatch):
    model = chain(2, "conv3x3")
    x = image().contiguous()
    assert kept(patched(model), monkeypatch, x)[0] == [True, True]
    model = chain(1, "conv3x3")
    assert kept(patched(model), monkeypatch, x)[0] == [False]
    for a, b in zip(gradients(patched(model), x), gradients(patched(model, monkeypatch), x), strict=True):
        assert torch.equal(a, b)


def test_the_sum_comes_back_to_the_bit():
    """Values a rounding away from zero, a NaN, minus zero."""
    torch.manual_seed(0)
    x = (torch.randn(2, 32, 8, 8) * 1e-7 + 0.3).to(memory_format=ROWS)
    x[0, 3, 0, 0] = float("nan")
    residual = (torch.randn(2, 32, 8, 8) * 1e-7).to(memory_format=ROWS)
    vectors = [torch.full((32,), value) for value in (1.7, 0.4, 0.3, 0.9)]
    a, _ = ops.bn_relu([x], *vectors, residual, True)
    assert torch.equal(a.view(torch.int32), ops.joined([x], *vectors, residual).view(torch.int32))


class Read(nn.Module):
    """A block whose sum user code reads, too."""

    def __init__(self, how):
        super().__init__()
        self.front, self.block = chain(0)[:3], BLOCKS["bottleneck"]()
        self.conv, self.how = nn.Conv2d(64, 8, 1), how

    def forward(self, x):
        a = self.block(self.front(x))
        return self.how(self.conv, a)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (lambda conv, a: conv(a) + conv(a.sigmoid()), True),
        (lambda conv, a: conv(a) * a.mean(), True),
        (lambda conv, a: torch.cat([conv(a), a], 1), True),
        (lambda conv, a: conv(a) + conv(a), False),
    ],
)
def test_a_sum_that_others_read(how, wanted, monkeypatch):
    model = Read(how).to(memory_format=ROWS)
    ours = patched(model)
    assert kept(ours, monkeypatch)[0] == [wanted]
    for a, b in zip(gradients(ours), gradients(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_without_a_graph_nothing_is_held():
    bn, x = nn.BatchNorm2d(16), torch.randn(2, 16, 4, 4).to(memory_format=ROWS)
    assert modules.bn_relu_sum(bn, x, x, False, True).recipe is not None
    with torch.no_grad():
        assert modules.bn_relu_sum(bn, x, x, False, True).recipe is None


def test_hooked_convolutions_run_themselves(monkeypatch):
    model, seen = chain(1).to(memory_format=ROWS), []
    model[-1].register_forward_hook(lambda *_: seen.append(1))
    assert kept(patched(model), monkeypatch)[0] == [True] and seen == [1]


def test_a_frozen_weight_needs_no_sum(monkeypatch):
    model = chain(1).to(memory_format=ROWS)
    model[-1].weight.requires_grad_(False)
    ours, made = patched(model), []
    monkeypatch.setattr(again.ops, "joined", lambda *_: made.append(1))
    ours(image()).square().sum().backward()
    model(image()).square().sum().backward()
    for a, b in zip(ours.parameters(), model.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    assert not made and ours[-1].weight.grad is None


def test_copies_files_and_other_modes():
    model = chain(3, "downsample").to(memory_format=ROWS)
    ours = patched(model)
    wanted = gradients(ours)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for twin in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
        assert all(torch.equal(a, b) for a, b in zip(gradients(twin), wanted, strict=True))
    with torch.no_grad():
        assert not ours(image()).requires_grad
    model.load_state_dict(ours.state_dict())
    model.eval(), ours.eval()
    assert torch.equal(ours(image()), model(image()))
    assert all(torch.equal(a, b) for a, b in zip(gradients(ours), gradients(model), strict=True))
    unpatch_(ours)


def test_used_twice_and_backward_twice():
    """One module on two inputs, and a graph that is kept."""
    model = chain(2).to(memory_format=ROWS)
    ours = patched(model)
    results = []
    for run in (model, ours):
        run.zero_grad()
        loss = (run(image()) * run(image() * 2 + 1)).sum()
        loss.backward(retain_graph=True)
        once = [parameter.grad.clone() for parameter in run.parameters()]
        loss.backward()
        assert all(torch.equal(p.grad, 2 * g) for p, g in zip(run.parameters(), once, strict=True))
        results.append(once)
    for a, b in zip(*results, strict=True):
        assert float((a - b).norm()) <= 1e-3 * max(1.0, float(b.norm()))


def test_checkpointed():
    model = chain(3).to(memory_format=ROWS)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    ours = patched(model)
    wanted = gradients(ours)
    ours.zero_grad()
    checkpoint(ours, image().requires_grad_(), use_reentrant=False).square().sum().backward()
    assert all(torch.equal(p.grad, b) for p, b in zip(ours.parameters(), wanted, strict=True))


def test_what_was_changed_in_between_is_told():
    """As in eager: a parameter that the sum is made of must not change before the backward."""
    ours = patched(chain(1).to(memory_format=ROWS))
    loss = ours(image()).square().sum()
    with torch.no_grad():
        ours[3].bn3.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivatives_are_refused():
    ours = patched(chain(1).to(memory_format=ROWS))
    x = image().requires_grad_()
    (dx,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="second derivative|differentiate twice"):
        dx.square().sum().backward()
