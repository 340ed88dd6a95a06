"""Patched models: the same training, the same keys, and every case where nothing may change (spec 19, 5)."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drivetrain import nets
from drivetrain.base.errors import InvalidValue
from drivetrain.graph.batchnorm import BNReLUConv2d, kernel, layout, modules, ops, patch_, statistics, unpatch_
from drivetrain.nets.resnet import Bottleneck

EDGE = "normalise and ReLU in the convolution's read-in"


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


def gradients(model, x, y):
    model.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss, [parameter.grad.clone() for parameter in model.parameters()]


MODELS = {
    "dense": lambda: nets.densenet_small(depths=(2, 1, 1)),
    "basic": lambda: nets.CifarResNet(8),
    "bottleneck": lambda: nets.ResNet(Bottleneck, (1, 1, 1, 1), 10),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dtype", "layout", "level"),
    [
        (torch.float64, torch.contiguous_format, "bnff"),
        (torch.float64, torch.channels_last, "bnff"),
        (torch.float32, torch.contiguous_format, "bnff"),
        *[(torch.float32, torch.channels_last, level) for level in ("stats_reuse", "rcf", "mvf", "bnff")],
    ],
)
def test_same_gradients_and_running_statistics(name, dtype, layout, level):
    """Against float64 eager; float32 may be as far from it as float32 eager is, twice."""
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype).train().to(memory_format=layout)
    exact, ours = copy.deepcopy(model).double(), copy.deepcopy(model)
    plan = patch_(ours, level=level, reference=dtype == torch.float64)
    assert all(edge.applied for edge in plan) and list(ours.state_dict()) == list(model.state_dict())
    assert plan.level == level and f"{len(plan)} of {len(plan)} batch norms" in plan.report()
    x, y = torch.randn(4, 3, 32, 32, dtype=dtype).to(memory_format=layout), torch.randint(0, 10, (4,))
    _, wanted = gradients(exact, x.double(), y)
    (_, eager), (_, got) = gradients(model, x, y), gradients(ours, x, y)
    worst = max(relative(a, b) for a, b in zip(eager, wanted, strict=True))
    limit = 1e-11 if dtype == torch.float64 else max(1e-4, 3 * worst)
    assert max(relative(a, b) for a, b in zip(got, wanted, strict=True)) <= limit
    for key, value in exact.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[key].double(), value.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", ["stats_reuse", "rcf", "mvf", "bnff"])
def test_a_level_runs_its_own_operators(level):
    from torch.utils._python_dispatch import TorchDispatchMode

    called = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function).replace("aten.", "").replace("drivetrain.", "").partition(".")[0])
            return function(*args, **(kwargs or {}))

    model = nets.DenseNet(16, (3,), 10, stem="cifar")
    patch_(model, level=level)
    with Watch():
        model(torch.randn(2, 3, 8, 8))
    assert ("bn_relu_conv" in called) == (level == "bnff") and ("relu" in called) == (level == "stats_reuse")
    assert ("batch_norm_update_stats" in called) == (level == "rcf") and "native_batch_norm" not in called
    # 7 batch norms; the stem, and after each layer 1x1 and 3x3: 7 features of which bnff's convolutions give six.
    assert called.count("bn_stats") == {"stats_reuse": 7, "rcf": 0, "mvf": 7, "bnff": 1}[level]
    assert called.count("cat") >= (3 if level in ("rcf", "mvf") else 0)


def test_fifty_steps_of_training():
    """A small DenseNet in float64: losses equal to 1e-8."""
    torch.manual_seed(0)
    model = nets.densenet_small(depths=(1, 1, 1)).double()
    ours = copy.deepcopy(model)
    patch_(ours, level="bnff", reference=True)
    data = torch.randn(50, 4, 3, 8, 8, dtype=torch.float64)
    labels = torch.randint(0, 10, (50, 4))
    losses = []
    for trained in (model, ours):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
        losses.append([])
        for x, y in zip(data, labels, strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(trained(x), y)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) <= 1e-8
    assert losses[0][-1] != losses[0][0]


def losses(seed, level, steps=50):
    """A small DenseNet trained in float32 on one made-up set; the seed is that of its weights."""
    torch.manual_seed(seed)
    model = nets.densenet_small(depths=(2, 2, 2))
    if level is not None:
        patch_(model, level=level)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, 3, 16, 16, generator=generator).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (64,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    found = []
    for step in range(steps):
        rows = slice(step % 4 * 16, step % 4 * 16 + 16)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found)


def test_fifty_steps_in_float32():
    """Rounding moves the losses by less than another seed does, at every tenth step's mean; and they learn."""
    seeds = torch.stack([losses(seed, None).view(5, 10).mean(1) for seed in range(3)])
    ours = losses(0, "bnff").view(5, 10).mean(1)
    spread = (seeds - seeds.mean(0)).abs().max(0).values
    assert bool(((ours - seeds[0]).abs() <= spread).all()) and ours[-1] < 0.9 * ours[0]
    assert not torch.equal(ours, seeds[0])  # the fused form ran


def test_each_feature_is_swept_once(monkeypatch):
    """A read counter, not a clock: no channel's statistics are computed twice, whatever concatenations read it."""
    if not kernel.has_gemm():
        pytest.skip("no kernel")
    model = nets.DenseNet(8, (3,), 10, stem="cifar")
    patch_(model, level="bnff")
    swept = []
    for room in (ops, layout):
        monkeypatch.setattr(room, "batch_statistics", lambda xs: swept.append(xs) or statistics.batch_statistics(xs))
    model(torch.randn(2, 3, 16, 16))
    # The stem's output and the three layers' outputs; the 1x1 convolutions sweep theirs while they write it.
    shapes = sorted(x.shape[1] for xs in swept for x in (xs if isinstance(xs, list) else [xs]))
    assert shapes == [8, 8, 8, 16]


class Odd(nn.Module):
    """A batch norm and something around it."""

    def __init__(self, after, **options):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(4, **options), nn.Conv2d(4, 5, 1)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.after = after

    def forward(self, x):
        return self.after(self, x)


def _twice(m, x):
    y = m.bn(x)
    return m.conv(torch.relu(y)) + m.conv(y)


def _dropped(m, x):
    return m.conv(m.drop(torch.relu(m.bn(x))))


def _read_twice(m, x):
    a = m.act(m.bn(x))
    return m.conv(a) + m.conv(a * 2)


def _added_in_place(m, x):
    y = x * 1.5
    y += m.bn(x)
    return m.conv(m.act(y)) + m.conv(y)


CASES = {
    "plain": (lambda m, x: m.conv(m.act(m.bn(x))), {}, EDGE),
    "no running statistics": (lambda m, x: m.conv(m.act(m.bn(x))), {"track_running_stats": False}, EDGE),
    "not affine": (lambda m, x: m.conv(m.act(m.bn(x))), {"affine": False}, EDGE),
    "cumulative": (lambda m, x: m.conv(m.act(m.bn(x))), {"momentum": None}, EDGE),
    "read twice": (_twice, {}, "the BN's output is read 2 times: normalise in one sweep"),
    "dropout between": (_dropped, {}, "normalise and ReLU in one sweep"),
    "ReLU read twice": (_read_twice, {}, "normalise and ReLU in one sweep"),
    "residual changed in place": (
        _added_in_place,
        {},
        "the sum behind the BN is read several times: normalise in one sweep",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_odd_surroundings(name):
    after, options, reason = CASES[name]
    torch.manual_seed(0)
    model = Odd(after, **options)
    ours = copy.deepcopy(model)
    (edge,) = patch_(ours, level="bnff")
    assert edge.reason == reason and edge.applied
    x = torch.randn(3, 4, 6, 6)
    results = []
    for m in (ours, model):
        torch.manual_seed(1)  # of the dropout
        results.append(m(x))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)


@pytest.mark.parametrize("case", ["eval", "autocast", "float64", "vmap", "empty batch", "bfloat16"])
def test_nothing_changes(case, monkeypatch):
    """Where the fused form does not say the same, or can't run natively, the modules run."""
    torch.manual_seed(0)
    model = Odd(CASES["plain"][0])
    ours = copy.deepcopy(model)
    patch_(ours, level="bnff")
    monkeypatch.setattr(modules.direct, "bn_relu_conv", None)
    x = torch.randn(3, 4, 6, 6)
    if case == "vmap":
        ours.bn.track_running_stats = model.bn.track_running_stats = False
        for m in (ours, model):
            m.bn.running_mean = m.bn.running_var = m.bn.num_batches_tracked = None
        assert torch.equal(torch.vmap(ours)(x[:, None]), torch.vmap(model)(x[:, None]))
        return
    if case == "eval":
        ours.eval(), model.eval()
    x = x[:0] if case == "empty batch" else x
    if case in ("float64", "bfloat16"):
        dtype = getattr(torch, case)
        ours, model, x = ours.to(dtype), model.to(dtype), x.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        if case == "empty batch":
            for m in (model, ours):  # torch's own answer, whichever it is in this version
                try:
                    m(x)
                except (ValueError, RuntimeError) as error:
                    assert m is model or str(error)
            return
        assert torch.equal(ours(x), model(x))


def test_one_value_per_channel():
    ours = Odd(CASES["plain"][0])
    patch_(ours, level="bnff")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(torch.randn(1, 4, 1, 1))


def test_wrong_number_of_channels():
    ours = Odd(CASES["plain"][0])
    patch_(ours, level="bnff")
    with pytest.raises(ValueError, match="should contain 3 elements not 4"):
        ours(torch.randn(2, 3, 4, 4))


def test_hooks_are_not_skipped():
    model = Odd(CASES["plain"][0])
    seen = []
    model.bn.register_forward_hook(lambda *_: seen.append(1))
    (edge,) = patch_(model, level="bnff")
    model(torch.randn(2, 4, 4, 4))
    assert seen == [1] and not edge.applied and edge.reason == "the BN has hooks"


def test_by_hand():
    bn, conv = nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, padding=1)
    layer = BNReLUConv2d(bn, conv)
    assert {key.partition(".")[0] for key in layer.state_dict()} == {"bn", "conv"}
    x = torch.randn(2, 4, 6, 6)
    wanted = conv(torch.relu(F.batch_norm(x, None, None, bn.weight, bn.bias, True)))
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-5)


def test_patch_unpatch_copy():
    model = nets.densenet_small(depths=(1, 1, 1))
    patch_(model, level="bnff")
    with pytest.raises(InvalidValue, match="patched already"):
        patch_(model, level="bnff")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.classifier.bias.add_(1)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(twin(x), model(x) + 1)  # the copy runs on its own parameters
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), model(x))
    unpatch_(model)
    with pytest.raises(InvalidValue, match="is not patched"):
        unpatch_(model)


def test_a_patched_model_is_exported():
    model = nets.CifarResNet(8)
    patch_(model, level="bnff")
    exported = torch.export.export(model, (torch.randn(2, 3, 16, 16),))
    assert any("drivetrain.bn_relu_conv" in str(node.target) for node in exported.graph.nodes)


def test_checkpointing_sees_the_same_gradients():
    from torch.utils.checkpoint import checkpoint

    model = Odd(CASES["plain"][0], momentum=0.0)
    ours = copy.deepcopy(model)
    patch_(ours, level="bnff")
    x = torch.randn(3, 4, 6, 6, requires_grad=True)
    model(x).sum().backward()
    checkpoint(ours, x, use_reentrant=False).sum().backward()
    for a, b in zip(ours.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_a_forward_that_branches_is_told():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InvalidValue, match="the forward of Branches can't be traced"):
        patch_(Branches(), level="bnff")


def test_double_backward_through_a_patched_model_is_refused_by_name():
    model = Odd(CASES["plain"][0])
    patch_(model, level="bnff")
    x = torch.randn(3, 4, 6, 6, requires_grad=True)
    (dx,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="drivetrain::bn_relu_conv has no second derivative"):
        dx.sum().backward()
