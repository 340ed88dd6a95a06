"""What a rule is worth before you train with it: every attack against it, on a small task, in seconds.

n workers train an MLP of 2,410 weights; the last f of them attack, knowing all honest gradients. The task is the 1,797
digits of scikit-learn where that is installed, else ten clusters of points. Everything runs in this process.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from drivetrain import nets
from drivetrain.base.errors import InvalidValue
from drivetrain.base.progress import track
from drivetrain.base.seeds import derive, numpy_generator, torch_generator

from .attacks import Attack, attack_names, simulate
from .errors import TooManyNonFinite
from .rule import Rule

BATCH, RATE, TEST = 32, 0.5, 360
WEIGHTS = 2410
_FEATURES, _CLASSES = 64, 10


@dataclass(frozen=True)
class AttackResult:
    """One attack against a rule.

    Attributes:
        attack: its name.
        accuracy: on the test set at the end.
        lost: points of accuracy (0 to 1) that the rule lost to the run without attack.
        influence: mean weight of an attacker times n, 1 being an equal part; None where the rule gives no weights.
        stopped: the step at which the rule refused to go on (too many vectors with NaN or infinity), or None.
    """

    attack: str
    accuracy: float
    lost: float
    influence: float | None
    stopped: int | None


@dataclass(frozen=True)
class Audit:
    """All attacks against a rule, worst first.

    Attributes:
        task: what was learnt.
        steps: of training, in each run.
        accuracy: without attack.
        results: of each attack.
    """

    task: str
    steps: int
    accuracy: float
    results: list[AttackResult]

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def audit(
    rule: Rule, n: int, f: int, *, attacks: Sequence[str] | None = None, steps: int = 100, seed: int = 0
) -> Audit:
    """Train n workers under `rule`, once without attack and once with each attack by f of them.

    Args:
        rule: an aggregation rule.
        n, f: workers, and how many of them attack; the rule is told f.
        attacks: names as `simulate` takes them; None is all.
        steps: of each training.
        seed: of data order, weights and attacks.

    Raises:
        RobustnessError: the rule can't tolerate f of n. InvalidValue: an unknown attack, or f or steps below 1.
    """
    rule.check(n, f)
    if f < 1 or steps < 1:
        raise InvalidValue(f"comm: audit: f={f}, steps={steps}, wanted both above 0: nobody attacks with f=0")
    chosen = [(name, _build(name)) for name in attacks or attack_names()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # vectors of 2,410 values: a second thread costs more than it saves
    try:
        return _audit(rule, n, f, chosen, steps, seed)
    finally:
        torch.set_num_threads(threads)


def _audit(rule: Rule, n: int, f: int, chosen: Sequence[tuple[str, Attack]], steps: int, seed: int) -> Audit:
    task = _Task(n, seed)
    clean, _, _ = task.train(rule, f, None, steps)
    results = []
    for name, attack in track(chosen, "attacking"):
        accuracy, influence, stopped = task.train(rule, f, attack, steps)
        results.append(AttackResult(name, accuracy, clean - accuracy, influence, stopped))
    results.sort(key=lambda result: (-result.lost, result.attack))
    return Audit(task.name, steps, clean, results)


def _build(name: str) -> Attack:
    """An attack in the strength in which it is dangerous."""
    known = name.casefold().replace("_", "-")
    options: dict[str, dict[str, Any]] = {
        "sign-flip": {"scale": 10},
        "alie": {"z": 1.5},  # the paper's own z is 0 for small n, where it does no harm
        "big-coordinate": {"k": WEIGHTS - 1},  # the bias of the last class
        "opt-alie": {"evals": 10},
        "opt-ipm": {"evals": 10},
    }
    return simulate(known, **options.get(known, {}))


class _Task:
    """Data cut into a share for each worker, and a model as one flat vector.

    Shapes: W workers, S samples in a share, F features, D weights.
    """

    def __init__(self, workers: int, seed: int) -> None:
        self.seed = seed
        self.name, x, y = _digits(seed) if importlib.util.find_spec("sklearn") is not None else _clusters(seed)
        share = (len(y) - TEST) // workers
        if share < 1:
            raise InvalidValue(f"comm: audit: n={workers} workers share {len(y) - TEST} samples, at most one each")
        self.test_x, self.test_y = x[-TEST:], y[-TEST:]
        self.x_WSF = x[: share * workers].reshape(workers, share, -1)
        self.y_WS = y[: share * workers].reshape(workers, share)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(derive(seed, "init"))
            self.model = nets.mlp(_FEATURES, (32,))
        self.shapes = {name: weight.shape for name, weight in self.model.named_parameters()}
        self.start = nn.utils.parameters_to_vector(self.model.parameters()).detach()
        self.gradients = vmap(grad(self._loss), in_dims=(None, 0, 0))

    def train(self, rule: Rule, f: int, attack: Attack | None, steps: int) -> tuple[float, float | None, int | None]:
        """Accuracy, mean influence of an attacker, and the step at which the rule refused to go on."""
        weights = self.start.clone()
        workers, share = self.y_WS.shape
        batches, rng = torch_generator(self.seed, "batches"), torch_generator(self.seed, "attack")
        rows = torch.arange(workers)[:, None]
        influence: list[float] = []
        for step in range(steps):
            chosen = torch.randint(0, share, (workers, BATCH), generator=batches)
            sent = self.gradients(weights, self.x_WSF[rows, chosen], self.y_WS[rows, chosen])
            if attack is not None:
                honest = sent[: workers - f]
                sent = torch.cat([honest, attack(honest, f, rule=rule, f=f, rng=rng)])
            info: dict[str, Any] = {}
            try:
                weights = weights - RATE * rule(sent, f, info=info)
            except TooManyNonFinite:
                return self._accuracy(weights), _mean(influence), step
            if "weights" in info:
                of_each = info["weights"].reshape(-1, workers).mean(0)
                influence.append(float(of_each[workers - f :].mean()) * workers)
        return self._accuracy(weights), _mean(influence), None

    def _named(self, weights_D: Tensor) -> dict[str, Tensor]:
        parts = weights_D.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def _loss(self, weights_D: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(self.model, self._named(weights_D), (x,)), y)

    def _accuracy(self, weights_D: Tensor) -> float:
        with torch.no_grad():
            logits = functional_call(self.model, self._named(weights_D), (self.test_x,))
        return float((logits.argmax(1) == self.test_y).double().mean())


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _digits(seed: int) -> tuple[str, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = numpy_generator(seed, "data").permutation(len(labels))
    return "digits of scikit-learn", torch.from_numpy(pixels[order]).float() / 16, torch.from_numpy(labels[order])


def _clusters(seed: int) -> tuple[str, Tensor, Tensor]:
    """As many points as there are digits, about ten centres; a few lie nearer to another one."""
    generator = numpy_generator(seed, "data")
    labels = generator.integers(0, _CLASSES, 1797)
    centres = generator.standard_normal((_CLASSES, _FEATURES))
    points = 0.35 * (centres[labels] + 2.2 * generator.standard_normal((len(labels), _FEATURES)))
    return "ten clusters (scikit-learn is not installed)", torch.from_numpy(points).float(), torch.from_numpy(labels)
