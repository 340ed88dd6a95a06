"""The exchange: gradients of n ranks become one, through codec, owner, aggregation rule and codec again.

    slice -> encode (error feedback) -> push to the owner -> aggregate decoded vectors -> encode -> pull -> decode

Push is a reduce-scatter and pull an all-gather, so a rank sends 2(n-1)/n of the compressed gradient. Every rank decodes
the same pulled bytes, so replicas stay bit-identical whatever the codec loses.
Sources: 3LC (spec 01 §2.6), AggregaThor (spec 06 §2.6). n ranks, d values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drivetrain.base.errors import InvalidValue, unknown_name

from . import aggregate as aggregation
from .aggregate import Rule, Suspicion, distances_to_result
from .codec import Codec, CodecRules, ErrorFeedback, NonFiniteGradient, Raw, decode, reshard_pull, reshard_push
from .codec import Rule as CodecRule
from .codec.wire import split_messages
from .report import ExchangeReport, ParameterCost
from .slices import Slice, cut
from .transport import Collective

FORMAT = 1


class Exchange:
    """One pipeline for all gradient traffic.

    Args:
        codec: a name ("3lc", "raw", "fp16", "topk"), a codec object, or `CodecRules`.
        aggregate: a rule by name ("average", "multi-krum", "nnm+median", ...) or object; rules see decoded vectors.
        f: how many ranks may be faulty.
        route, schedule, sync, transport: "flat", "fifo", "every-step" and "collective" so far; others are refused.
        rules: codec rules by parameter, before `codec`.
        min_numel: parameters with fewer values are sent raw, and whole to one owner.
        pull_codec: codec of the aggregated gradient; by default the same as `codec`.
        timeout_s: a rank that is silent for so long is taken for dead.

    Raises:
        InvalidValue: an unknown name, or a rule that n ranks can't hold against f faulty ones.
    """

    def __init__(
        self,
        codec: str | Codec | CodecRules = "3lc",
        aggregate: str | Rule = "average",
        *,
        f: int = 0,
        route: str = "flat",
        schedule: str = "fifo",
        sync: str = "every-step",
        transport: str = "collective",
        rules: Iterable[CodecRule] = (),
        min_numel: int = 1024,
        timeout_s: float = 300.0,
    ) -> None:
        for slot, found, known in (
            ("route", route, "flat"),
            ("schedule", schedule, "fifo"),
            ("sync", sync, "every-step"),
            ("transport", transport, "collective"),
        ):
            if found != known:
                raise unknown_name(f"comm: {slot}", found, [known])
        self.codecs = codec if isinstance(codec, CodecRules) else CodecRules(codec, rules, min_numel=min_numel)
        self.rule = aggregation.get(aggregate)
        self.f = f
        self.transport = Collective(timeout_s)
        self.rule.check(self.transport.world_size, f)
        self.push_feedback, self.pull_feedback = ErrorFeedback(), ErrorFeedback()
        self.suspicion = Suspicion(self.transport.world_size)
        self._account = ExchangeReport()
        self._slices: dict[str, list[Slice]] = {}
        self._codec_of: dict[str, Codec] = {}

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Make `optimizer.step()` exchange gradients first; all ranks start from rank 0's parameters and buffers.

        Raises:
            InvalidValue: models differ between ranks; checked before any gradient travels.
        """
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.register(named)
        for tensor in (*(p.data for p in model.parameters()), *model.buffers()):
            self.transport.broadcast(tensor)

        def exchange(*_: Any) -> None:
            for _name, parameter in named:
                if parameter.grad is None:  # unused in this step: a zero input, so its residual still drains
                    parameter.grad = torch.zeros_like(parameter)
            self.reduce({name: parameter.grad for name, parameter in named if parameter.grad is not None})

        optimizer.register_step_pre_hook(exchange)
        return model, optimizer

    def register(self, named: Sequence[tuple[str, Tensor]]) -> None:
        """Fix the parameters that will be exchanged; the same names and shapes on every rank.

        Raises:
            InvalidValue: they differ; names the first rank and parameter that does.
        """
        listed = "\n".join(f"{name} {tuple(p.shape)} {p.dtype}" for name, p in named)
        found = self.transport.same_everywhere(listed)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise InvalidValue(_first_difference(rank, found[0], other))
        sizes = [(name, p.numel()) for name, p in named]
        self._codec_of = self.codecs.assign(sizes)
        small = {name for name, numel in sizes if numel < self.codecs.min_numel}
        raw = {name for name, codec in self._codec_of.items() if isinstance(codec, Raw)}
        self._slices = cut(sizes, self.transport.world_size, small & raw)

    def reduce(self, gradients: Mapping[str, Tensor]) -> None:
        """Replace each rank's gradients by the aggregate of all ranks', in place.

        Raises:
            NonFiniteGradient: with f = 0, a rank's gradient is not finite: raised on every rank, nothing was changed.
                With f > 0 such a rank counts as one of the faulty ones.
        """
        account = self._account
        with account.timed("encode"):
            outgoing = self._encode(gradients)
        before = self.transport.sent
        with account.timed("push"):
            incoming = self.transport.push(outgoing)
        absent = [rank for rank, message in enumerate(incoming) if message is None]
        if len(absent) > self.f:
            raise NonFiniteGradient(
                f"comm: the gradient of rank {', '.join(map(str, absent))} is not finite in exchange {account.steps}",
                hint="no rank changed anything; a robust rule with f > 0 goes on without such ranks",
            )
        mine = [piece for slices in self._slices.values() for piece in slices if piece.owner == self.transport.rank]
        with account.timed("aggregate"):
            result = self._aggregate(incoming, mine)
        with account.timed("pull"):
            answers = self.transport.pull(self._encode_result(result, mine))
        with account.timed("decode"):
            self._write(answers, gradients)
        account.steps += 1
        account.bytes_wire += self.transport.sent - before
        values = sum(gradient.numel() for gradient in gradients.values())
        n = self.transport.world_size
        account.bytes_raw += 2 * (n - 1) * 4 * values // n

    def report(self) -> ExchangeReport:
        """The account so far."""
        self._account.residual_norm = {"push": self.push_feedback.norm(), "pull": self.pull_feedback.norm()}
        self._account.suspicion = self.suspicion.report()
        return self._account

    def state_dict(self) -> dict[str, Any]:
        """This rank's residuals by parameter name, as torch.save takes them."""
        push = {
            name: torch.cat([self.push_feedback.residuals[piece.key] for piece in slices])
            for name, slices in self._slices.items()
            if all(piece.key in self.push_feedback for piece in slices)
        }
        pull = {
            piece.name: self.pull_feedback.residuals[piece.key].clone()
            for piece in self._own()
            if piece.key in self.pull_feedback
        }
        state = {"format": FORMAT, "world_size": self.transport.world_size, "push": push, "pull": pull}
        return {**state, "account": self._account.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up residuals that `state_dict` gave on as many ranks; see `reshard_states` for another number.

        Raises:
            InvalidValue: another format or number of ranks.
        """
        if state.get("format") != FORMAT or state["world_size"] != self.transport.world_size:
            raise InvalidValue(
                f"comm: this state is of format {state.get('format')} and {state.get('world_size')} ranks, here are "
                f"format {FORMAT} and {self.transport.world_size} ranks",
                hint="reshard_states(states, world_size) keeps the sum of all residuals",
            )
        push = {
            piece.key: state["push"][name][piece.begin : piece.end]
            for name, slices in self._slices.items()
            if name in state["push"]
            for piece in slices
        }
        if "account" in state:
            self._account.load_state_dict(state["account"])
        self.push_feedback.load_state_dict(push)
        self.pull_feedback.load_state_dict(
            {piece.key: state["pull"][piece.name] for piece in self._own() if piece.name in state["pull"]}
        )

    def _own(self) -> list[Slice]:
        return [piece for slices in self._slices.values() for piece in slices if piece.owner == self.transport.rank]

    def _encode(self, gradients: Mapping[str, Tensor]) -> list[Tensor] | None:
        """One message an owner; None, with all residuals as they were, when a value is not finite."""
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values()):
            return None
        messages: list[list[Tensor]] = [[] for _ in range(self.transport.world_size)]
        for name, slices in self._slices.items():
            flat = gradients[name].detach().reshape(-1)
            cost = self._account.parameters.setdefault(name, ParameterCost())
            for piece in slices:
                message = self._message(self.push_feedback, piece, flat[piece.begin : piece.end])
                messages[piece.owner].append(message)
                cost.wire += message.numel()
            cost.raw += 4 * flat.numel()
        empty = torch.empty(0, dtype=torch.uint8)
        return [torch.cat(parts) if parts else empty for parts in messages]

    def _message(self, feedback: ErrorFeedback, piece: Slice, values: Tensor) -> Tensor:
        """One slice as a message; what a raw message can't lose needs no residual."""
        codec = self._codec_of[piece.name]
        return codec.encode(values).data if isinstance(codec, Raw) else feedback.encode(codec, piece.key, values)

    def _aggregate(self, incoming: Sequence[Tensor | None], mine: Sequence[Slice]) -> Tensor:
        """What this owner's slices come to: decoded vectors of all ranks, side by side, through the rule."""
        width = sum(piece.end - piece.begin for piece in mine)
        vectors = torch.full((self.transport.world_size, width), float("nan"))
        for rank, message in enumerate(incoming):
            if message is not None:
                parts = [decode(part) for part in split_messages(message)]
                vectors[rank] = torch.cat(parts) if parts else vectors[rank]
        info: dict[str, Any] = {}
        result = self.rule(vectors, self.f, info=info, reduce=self.transport.sum)
        if self.f:
            squares = self.transport.sum(distances_to_result(vectors, result).double())
            self.suspicion.observe(info, sqdist_to_result=squares)
        return result

    def _encode_result(self, result: Tensor, mine: Sequence[Slice]) -> Tensor:
        parts = result.split([piece.end - piece.begin for piece in mine]) if mine else []
        messages = [self._message(self.pull_feedback, piece, part) for piece, part in zip(mine, parts, strict=True)]
        return torch.cat(messages) if messages else torch.empty(0, dtype=torch.uint8)

    def _write(self, answers: Sequence[Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Every rank decodes the same bytes, its own slices included: only so are replicas bit-identical."""
        values = [[decode(part) for part in split_messages(answer)] for answer in answers]
        taken = [0] * len(values)
        for name, slices in self._slices.items():
            flat = torch.empty(gradients[name].numel())
            for piece in slices:
                flat[piece.begin : piece.end] = values[piece.owner][taken[piece.owner]]
                taken[piece.owner] += 1
            gradients[name].copy_(flat.view_as(gradients[name]))


def reshard_states(states: Sequence[Mapping[str, Any]], world_size: int) -> list[dict[str, Any]]:
    """The `state_dict`s of all ranks for another number of ranks.

    What the residuals still owe the parameters stays the same: push residuals are averaged, pull residuals cut anew.

    Raises:
        InvalidValue: not one state a rank of the old world.
    """
    if not states or any(state["world_size"] != len(states) for state in states):
        raise InvalidValue(
            f"comm: {len(states)} states, but they are of {states[0]['world_size'] if states else 0} ranks"
        )
    push = reshard_push([state["push"] for state in states], world_size, "mean")
    pull = reshard_pull([state["pull"] for state in states], world_size)
    return [
        {"format": FORMAT, "world_size": world_size, "push": push[rank], "pull": pull[rank]}
        for rank in range(world_size)
    ]


def digest(tensors: Iterable[Tensor]) -> str:
    """A hash of tensors' exact bits, to compare replicas."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _first_difference(rank: int, first: str, other: str) -> str:
    mine, theirs = first.splitlines(), other.splitlines()
    for a, b in zip(mine, theirs, strict=False):
        if a != b:
            return f"comm: the models differ: rank 0 has {a}, rank {rank} has {b}"
    return f"comm: the models differ: rank 0 has {len(mine)} parameters, rank {rank} has {len(theirs)}"
