"""Small real tasks for the simulated clock: classification of scikit-learn's 1,797 digits, and a noisy quadratic.

Shapes: W workers, B samples a batch; a parameter of shape S is held for all workers at once as (W, *S).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from drivetrain.base.extras import require
from drivetrain.base.seeds import torch_generator

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """What `simulate` trains.

    Attributes:
        name: for tables.
        initial: seed -> parameters of one worker.
        step: (parameters of all workers (W, ...), generator) -> gradients (W, ...), losses (W,) of fresh minibatches.
        loss: parameters of one worker -> training loss on all data.
        lr: learning rate that suits the task.
    """

    name: str
    initial: Callable[[int], Params]
    step: Callable[[Params, torch.Generator], tuple[Params, Tensor]]
    loss: Callable[[Params], float]
    lr: float


def digits_mlp(batch: int = 4, hidden: int = 64, lr: float = 0.5) -> Problem:
    """64-`hidden`-10 perceptron on the digits; `batch` samples a worker and step."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    x, y = _digits()
    return _classification("digits MLP", build, x, y, batch, lr)


def digits_cnn(batch: int = 4, width: int = 8, lr: float = 0.1) -> Problem:
    """Two 3x3 convolutions with pooling (`width` and 2 `width` channels) and a linear layer, on the 8x8 digits."""

    def build() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(8 * width, 10)),
        )

    x, y = _digits()
    return _classification("digits CNN", build, x.view(-1, 1, 8, 8), y, batch, lr)


def quadratic(dim: int = 100, sigma: float = 1.0, lr: float = 0.05) -> Problem:
    """F(x) = ||x||² / 2 with gradient noise of standard deviation `sigma` a coordinate; x starts at all ones."""

    def step(params: Params, generator: torch.Generator) -> tuple[Params, Tensor]:
        x = params["x"]
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype) * sigma
        return {"x": x + noise}, x.square().sum(1) / 2

    def loss(params: Params) -> float:
        return float(params["x"].square().sum() / 2)

    return Problem("quadratic", lambda seed: {"x": torch.ones(dim, dtype=torch.float64)}, step, loss, lr)


def _classification(name: str, build: Callable[[], nn.Module], x: Tensor, y: Tensor, batch: int, lr: float) -> Problem:
    skeleton = build()

    def initial(seed: int) -> Params:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {key: p.detach() for key, p in build().named_parameters()}

    def loss_of(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(skeleton, params, (x,)), y)

    gradients = vmap(grad_and_value(loss_of))

    def step(params: Params, generator: torch.Generator) -> tuple[Params, Tensor]:
        workers = len(next(iter(params.values())))
        rows = torch.randint(len(x), (workers, batch), generator=generator)
        return gradients(params, x[rows], y[rows])

    def loss(params: Params) -> float:
        with torch.no_grad():
            return float(loss_of(params, x, y))

    return Problem(name, initial, step, loss, lr)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 64) in 0..1, labels; from scikit-learn's wheel, nothing is downloaded."""
    x, y = require("sklearn.datasets", extra="examples").load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


def noise_generator(seed: int, label: str) -> torch.Generator:
    """The stream of one use of randomness in a simulated run."""
    return torch_generator(seed, "comm.sync.simulate", label)
