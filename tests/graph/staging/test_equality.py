"""Sixty small functions, staged and eager: the same bits, the same writes, the same views, the same random numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drivetrain.graph.errors import CaptureError, ControlFlowError
from drivetrain.graph.staging import function

LINEAR = nn.Linear(4, 3)
NORM = nn.LayerNorm(4)
GRU = nn.GRU(4, 5)
LSTM = nn.LSTM(4, 5)
CONV = nn.Conv1d(3, 2, 2)
HEADS = nn.MultiheadAttention(4, 2)
ENCODER = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)
EMBED = nn.Embedding(10, 4)


def in_place(x):
    x += 1
    x.mul_(2)
    return x


def through_a_view(x):
    x[:, 0] = 5.0
    x.view(-1)[3:] *= 2
    return x.sum()


def loop(x):
    for k in range(3):
        x = x * k + 1
    return x


def by_python_shape(x):
    return [row * (k + 1) for k, row in enumerate(x) if k != 1]


def no_grad_inside(x):
    with torch.no_grad():
        y = x.exp()
    return x * y


def autocast_inside(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x.t(), LINEAR(x)


FUNCTIONS = {
    "add": lambda x: x + x,
    "rsub": lambda x: 2 - x,
    "alpha": lambda x: torch.add(x, x, alpha=3),
    "divide": lambda x: x / 3 // 1 % 2,
    "trunc": lambda x: torch.div(x, 0.3, rounding_mode="trunc"),
    "power": lambda x: x**2 + 2.0**x + (x.abs() + 1) ** x,
    "neg": lambda x: -x.abs(),
    "sign": lambda x: x.sign() * x.sgn(),
    "trig": lambda x: x.sin() + x.cos().tan().atan(),
    "exp": lambda x: x.exp().log1p().expm1().sqrt(),
    "round": lambda x: x.floor() + x.ceil() + x.frac() + x.trunc() + x.round(),
    "compare": lambda x: (x > 0) & (x <= 1) | (x == 0) | ~(x != 1),
    "where": lambda x: torch.where(x > 0, x, -2.0),
    "clamp": lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0) + x.clamp_max(1),
    "max": lambda x: x.max(1),
    "min": lambda x: x.min(),
    "maximum": lambda x: torch.maximum(x, x.flip(0)),
    "sum": lambda x: (x.sum(), x.sum(0), x.sum((0, 1), keepdim=True)),
    "mean": lambda x: x.mean(1, keepdim=True),
    "var": lambda x: (x.var(0), x.std(1, unbiased=False)),
    "prod": lambda x: x.prod(1),
    "norm": lambda x: x.norm() + torch.linalg.vector_norm(x, 1),
    "argmax": lambda x: x.argmax(1),
    "topk": lambda x: x.topk(2),
    "sort": lambda x: x.sort(1, descending=True).values,
    "cumsum": lambda x: x.cumsum(1).cumprod(0),
    "softmax": lambda x: x.softmax(1) + F.log_softmax(x, 0),
    "logsumexp": lambda x: x.logsumexp(1),
    "matmul": lambda x: x @ x.t() @ x,
    "addmm": lambda x: torch.addmm(x[:, :3], x, torch.ones(4, 3)),
    "bmm": lambda x: torch.bmm(x[None], x.t()[None]),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "outer": lambda x: torch.outer(x[0], x[1]),
    "transpose": lambda x: x.t().contiguous().view(2, 6),
    "permute": lambda x: x.reshape(3, 2, 2).permute(2, 0, 1),
    "cat": lambda x: torch.cat([x, x * 2], 1),
    "stack": lambda x: torch.stack([x, x], -1),
    "split": lambda x: x.split([1, 3], 1),
    "chunk": lambda x: x.chunk(2, 1),
    "unbind": lambda x: x.unbind(0),
    "index": lambda x: x[[0, 2], 1:],
    "mask": lambda x: x.masked_fill(x > 0, 7.0),
    "gather": lambda x: x.gather(1, torch.tensor([[0], [1], [2]])),
    "scatter": lambda x: x.scatter(1, torch.zeros(3, 1).long(), 9.0),
    "roll": lambda x: x.roll(1, 0).flip(1).tril(),
    "pad": lambda x: F.pad(x, (1, 2), value=3.0),
    "expand": lambda x: x[:, :1].expand(3, 5) + 1,
    "squeeze": lambda x: x[None].squeeze(0).unsqueeze(-1),
    "eye": lambda x: torch.eye(4) + torch.arange(4) + torch.full((4,), 2.0),
    "like": lambda x: torch.zeros_like(x) + torch.ones_like(x) + x.new_full((4,), 3),
    "cast": lambda x: x.double().int().float().bool(),
    "relu": lambda x: F.relu(x) + F.gelu(x) + F.silu(x) + F.elu(x) + F.leaky_relu(x),
    "sigmoid": lambda x: x.sigmoid() * x.tanh(),
    "linear": LINEAR,
    "layer_norm": NORM,
    "conv": lambda x: CONV(x[None]),
    "gru": lambda x: GRU(x[None])[0],
    "lstm": lambda x: LSTM(x[None])[1],
    "attention": lambda x: HEADS(x[:, None], x[:, None], x[:, None])[0],
    "encoder": lambda x: ENCODER(x[:, None]),
    "embedding": lambda x: EMBED(x.abs().long() % 10),
    "loss": lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2])),
    "in_place": in_place,
    "through_a_view": through_a_view,
    "loop": loop,
    "rows": by_python_shape,
    "no_grad": no_grad_inside,
    "autocast": autocast_inside,
    "rand": lambda x: x + torch.rand(4) * torch.randn_like(x),
    "dropout": lambda x: F.dropout(x, 0.5),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()) + torch.randint(0, 9, (4,)) + torch.randperm(4),
    "view_out": lambda x: x.view(4, 3),
    "identity": lambda x: x,
    "nested": lambda x: {"a": [x, (x + 1, None, "text")], "b": 3},
    "complex": lambda x: torch.fft.fft(x).abs(),
}


def same(ours, theirs):
    ours, theirs = (torch.utils._pytree.tree_flatten(value) for value in (ours, theirs))
    assert ours[1] == theirs[1]
    for a, b in zip(ours[0], theirs[0], strict=True):
        if isinstance(a, torch.Tensor):
            assert a.dtype is b.dtype and a.shape == b.shape and a.stride() == b.stride()
            assert a.requires_grad == b.requires_grad
            assert torch.equal(a.nan_to_num(), b.nan_to_num()) if a.is_floating_point() else torch.equal(a, b)
        else:
            assert a == b


@pytest.mark.parametrize("name", FUNCTIONS)
def test_staged_is_eager_to_the_bit(name):
    python = FUNCTIONS[name]
    staged = function(python, backend="eager", effects="ignore")
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    results = []
    for f in (python, staged, staged, python):
        torch.manual_seed(7)
        given = x.clone()
        out = [f(given), f(given)]
        results.append((out, given, torch.rand(1)))
    for other in results[1:]:
        same(other, results[0])
    assert staged.trace_count == 1 and all(made.calls == 4 for made in staged.traces)


@pytest.mark.parametrize(
    "name", ["in_place", "through_a_view", "dropout", "encoder", "lstm", "nested", "view_out", "split", "rand"]
)
def test_compiled_is_eager_to_the_bit_where_kernels_are(name):
    """Through aot_autograd (functionalised, then torch's own kernels): writes and views survive."""
    python = FUNCTIONS[name]
    staged = function(python, options={"then": "eager"}, effects="ignore")
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        ours, theirs = x.clone(), x.clone()
        torch.manual_seed(3)
        a = staged(ours)
        torch.manual_seed(3)
        b = python(theirs)
        same((a, ours), (b, theirs))


def test_a_view_is_a_view_and_an_argument_is_itself():
    f = function(lambda x: (x.view(-1), x, x[0]), backend="eager")
    x = torch.zeros(2, 2)
    for _ in range(2):
        flat, itself, row = f(x)
        assert itself is x and flat.data_ptr() == x.data_ptr() == row.data_ptr()
    flat[0] = 3
    assert x[0, 0] == 3


def test_gradients_are_eager_to_the_bit():
    for name in ("encoder", "lstm", "matmul", "softmax", "no_grad", "loop"):
        python, grads = FUNCTIONS[name], []
        staged = function(python, backend="eager")
        for f in (python, staged, staged):
            x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
            out = torch.utils._pytree.tree_leaves(f(x))
            grads.append(torch.autograd.grad(sum(value.sum() for value in out), x)[0])
        assert torch.equal(grads[1], grads[0]) and torch.equal(grads[2], grads[0]), name


def test_the_same_tensor_twice_where_one_is_written():
    """Compiled code is made for inputs that lie apart; what shares memory runs as it was written."""

    def f(x, y):
        x.add_(1)
        return x * y

    staged = function(f, options={"then": "eager"})
    staged(torch.ones(2), torch.ones(2))
    x = torch.ones(2)
    assert staged(x, x).tolist() == [4, 4] and staged.trace_count == 1


def staged_error(python, *args):
    with pytest.raises(CaptureError) as caught:
        function(python, backend="eager")(*args)
    return caught.value


def test_values_that_python_asks_for_are_refused_by_line():
    x = torch.ones(2)

    def branch(x):
        if x.sum() > 0:  # asks
            return x
        return -x

    error = staged_error(branch, x)
    assert isinstance(error, ControlFlowError) and "torch.cond" in str(error) and "# asks" in str(error)
    for python in (lambda x: x * x.sum().item(), lambda x: x[x > 0] * 2, lambda x: torch.zeros(int(x.sum()))):
        error = staged_error(python, x)
        assert isinstance(error, ControlFlowError) and "test_equality.py" in str(error)
    assert "numpy" in str(staged_error(lambda x: torch.as_tensor(x.numpy() * 2), x))
    y = torch.ones(2, requires_grad=True)
    assert "torch.autograd.grad" in str(staged_error(lambda x: (x * 2).sum().backward(), y))
    assert "returns a object" in str(staged_error(lambda x: object(), x))
    w = torch.ones(1)
    assert "sets .data" in str(staged_error(lambda x: setattr(w, "data", x) or x, x))


def test_tensors_that_a_trace_has_no_place_for():
    class Tagged(torch.Tensor):
        pass

    tagged, x = torch.ones(2).as_subclass(Tagged), torch.ones(2)
    assert "argument is a Tagged" in str(staged_error(lambda x: x * 2, tagged))
    assert "captured tensor is a Tagged" in str(staged_error(lambda x: x * tagged, x))
    away = torch.ones(2, device="meta")
    with pytest.raises(CaptureError, match="arguments are on cpu, a tensor captured from outside is on meta"):
        function(lambda x: x * away, backend="eager").concrete(x)


def test_a_function_first_met_inside_another_is_compiled_when_it_is_called_itself():
    inner = function(lambda x: x.sin() * 2, options={"then": "eager"})
    outer = function(lambda x: inner(x) + 1, options={"then": "eager"})
    made = outer.concrete(torch.ones(3))
    assert torch.equal(made(torch.ones(3)), torch.ones(3).sin() * 2 + 1)
    before = inner.traces[0].run
    assert torch.equal(inner.traces[0](torch.ones(3)), torch.ones(3).sin() * 2)
    assert inner.traces[0].run is not before and inner.trace_count == 1


def test_recursion_ends_by_an_argument_or_is_refused():
    @function(backend="eager")
    def power(x, n):
        return x if n == 1 else x * power(x, n - 1)

    assert power(torch.tensor(2.0), 5) == 32 and power(torch.tensor(2.0), 5) == 32

    @function(backend="eager")
    def endless(x):
        return endless(x) + 1

    with pytest.raises((CaptureError, RecursionError)):
        endless.concrete(torch.ones(1))
    assert endless.trace_count == 0
