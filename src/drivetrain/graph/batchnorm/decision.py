"""Which form of a model trains fastest here: as it is, in channels_last, restructured in either ("never slower").

Training steps of copies run in turn on the caller's own kind of input. Fewer images are enough, but not any number:
torch takes other kernels from 16 images on. Afterwards the edges of the best restructured form are timed one by one
(choose.py, kept in the machine's cost table), and what does not pay on its own is left out if the whole gains by it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .patch import Form, PatchedForward, in_rows, is_patched
from .plan import BNPlan, Edge, match, trace
from .rewrite import restructure
from .synchronised import is_synchronised
from .traffic_model import features, sweeps

LEAST = 0.98  # another form must take at most this share of the model's own time
HOPELESS = 1.25  # a form this much slower than the best in its first run is not run again
CLEAR = 0.95  # a restructured whole at this share of the others' time is taken as it is
ROUNDS = 3
LEVEL = 1.01  # a restructured form this close to the fastest is taken: it keeps less for the backward
EDGE_SECONDS = 5.0  # for timing single edges; those that are not reached stay


def decide(model: nn.Module, args: tuple[Any, ...], reference: bool = False) -> tuple[Form, BNPlan]:
    """The fastest form for a training step on these arguments, and the plan that tells it."""
    if any(is_synchronised(module) for module in model.modules()):
        # Ranks must agree on their collectives, and torch itself has no SyncBatchNorm on CPUs to compare with.
        return Form("bnff", reference=reference), restructure(model, reference=reference)[1]
    args = fewer_images(args)
    forms = {"as it is": Form("off"), "restructured": Form("bnff", reference=reference)}
    if any(isinstance(arg, Tensor) and arg.dim() == 4 and arg.is_contiguous() for arg in args):
        forms |= {f"{name}, channels_last": replace(form, rows=True) for name, form in forms.items()}
    seconds = race({name: _step(model, form, args) for name, form in forms.items()})
    fused = min((name for name in seconds if forms[name].level != "off"), key=seconds.__getitem__)
    others = min(value for name, value in seconds.items() if forms[name].level == "off")
    # Edge by edge takes long, and what single edges lose is little where the whole gains.
    kept = None if seconds[fused] <= CLEAR * others else _worth_it(model, forms[fused], args)
    if kept is not None:
        forms["edge by edge"] = replace(forms[fused], keep=kept)
        best = min(seconds, key=seconds.__getitem__)
        again = {name: _step(model, forms[name], args) for name in dict.fromkeys(("as it is", best, "edge by edge"))}
        for name, value in race(again).items():
            seconds[name] = min(value, seconds.get(name, value))
    best = min(seconds, key=seconds.__getitem__)
    best = fused if seconds[fused] <= LEVEL * seconds[best] else best
    chosen = best if seconds[best] <= LEAST * seconds["as it is"] else "as it is"
    return forms[chosen], _plan(model, forms[chosen], args, seconds, chosen)


def fewer_images(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with at most 8 images, or 16 where there are so many: detached, as leaves."""
    batch = next((len(arg) for arg in args if isinstance(arg, Tensor) and arg.dim() == 4), 0)
    images = 16 if batch >= 16 else 8

    def cut(x: Tensor) -> Tensor:
        x = x.detach()[:images] if x.dim() > 0 and len(x) == batch else x.detach()
        return x.clone()

    return tuple(cut(arg).requires_grad_(arg.requires_grad) if isinstance(arg, Tensor) else arg for arg in args)


def race(steps: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Seconds of the fastest run of each, in turn; what is hopeless after its first runs is left alone."""
    first = {name: step() for name, step in steps.items()}  # allocations, kernels, choices of the convolutions
    first = {name: step() for name, step in steps.items()}
    best = dict(first)
    for _ in range(ROUNDS - 1):
        for name, step in steps.items():
            if first[name] <= HOPELESS * min(first.values()):
                best[name] = min(best[name], step())
    return best


def _step(model: nn.Module, form: Form, args: tuple[Any, ...]) -> Callable[[], float]:
    """One forward and backward of a copy of the model in a form; gives its seconds."""
    twin = copy.deepcopy(model)
    if is_patched(twin):
        del twin.__dict__["forward"]
    if form.rows:
        twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if form.level != "off" or form.rows:
        twin.__dict__["forward"] = PatchedForward(twin, form)
    twin.train(model.training)

    # One thread's own time does not count what else the machine does; of several, only the clock on the wall is fair.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def run() -> float:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            start = clock()
            outputs = [y for y in pytree.tree_leaves(twin(*args)) if isinstance(y, Tensor) and y.requires_grad]
            torch.autograd.backward([y.float().square().mean() for y in outputs])
            seconds = clock() - start
        for value in (*twin.parameters(), *(arg for arg in args if isinstance(arg, Tensor))):
            value.grad = None
        return seconds

    return run


def _worth_it(model: nn.Module, form: Form, args: tuple[Any, ...]) -> frozenset[str] | None:
    """The batch norms whose edge pays by itself; None where that is all of them, or none."""
    from .choose import Chooser

    traced = trace(model)
    matches = [found for found in match(traced) if found.edge.applied]
    shapes = features(traced, in_rows(args) if form.rows else args)
    chooser, stop = Chooser(), time.perf_counter() + EDGE_SECONDS
    kept = set()
    for found in sorted(matches, key=lambda found: -shapes[found.bn].numel()):
        if time.perf_counter() > stop or chooser.edge_pays(found, traced, shapes[found.bn], form.rows):
            kept.add(found.edge.bn)
    chooser.save()
    return frozenset(kept) if 0 < len(kept) < len(matches) else None


def _plan(model: nn.Module, form: Form, args: tuple[Any, ...], seconds: dict[str, float], chosen: str) -> BNPlan:
    traced = trace(model)
    shapes = features(traced, args)
    before, after = sum(sweeps("baseline")), sum(sweeps("bnff"))

    def told(edge: Edge, size: int, joined: bool) -> Edge:
        if form.level == "off" and edge.applied:
            quickest = min((name for name in seconds if name.startswith("restructured")), key=seconds.__getitem__)
            ratio = seconds[chosen] / seconds[quickest]
            edge = replace(edge, applied=False, reason=f"measured: {chosen} is faster (restructured {ratio:.2f}x)")
        counts = (before, after if edge.applied else before) if joined else (0, 0)
        return replace(edge, feature_bytes=size, sweeps_before=counts[0], sweeps_after=counts[1])

    by_name = {found.edge.bn: shapes[found.bn].nbytes for found in match(traced)}
    level = "bnff" if form.level == "off" else form.level
    edges = restructure(model, level=level, keep=form.keep, reference=form.reference)[1].edges
    edges = [told(edge, by_name[edge.bn], edge.conv is not None) for edge in edges]
    return BNPlan(edges, form.level, "channels_last" if form.rows else "given", seconds)
