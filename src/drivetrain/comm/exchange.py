"""The exchange: gradients of n ranks become one, through codec, owner, aggregation rule and codec again.

    slice -> encode (error feedback) -> push to the owner -> aggregate decoded vectors -> encode -> pull -> decode

Push is a reduce-scatter and pull an all-gather, so a rank sends 2(n-1)/n of the compressed gradient. Every rank decodes
the same pulled bytes, so replicas stay bit-identical whatever the codec loses. This file is the face; `pipeline` is one
exchange, `coder` the codecs in it, `hook` DDP's side, `liveness` who is gone.
Sources: 3LC (spec 01 §2.6), AggregaThor (spec 06 §2.6). n ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drivetrain.base.errors import DrivetrainError, InvalidValue, unknown_name

from . import aggregate as aggregation
from . import state as states
from . import transport as transports
from .aggregate import Quarantine, Rule
from .agreement import check_models, refuse_sparse, sparse_gradient
from .automatic import Automatic
from .codec import Codec, CodecRules, NonFiniteGradient
from .codec import Rule as CodecRule
from .coder import Coder
from .courier import Courier
from .delta import DeltaOptimizer
from .hook import Hook
from .link import Chosen
from .liveness import Liveness
from .momentum import WorkerMomentum
from .options import EVERY_STEP, OnNonFinite, Options, Pull, Topology
from .pipeline import Pipeline
from .report import ExchangeReport
from .slices import Layout, Trust, Unit
from .transport import Collective, Transport


class Exchange:
    """One pipeline for all gradient traffic.

    Args:
        codec: a name ("3lc", "raw", "fp16", "topk"), a codec object, `CodecRules`, or "auto": measure the link, then
            the mildest codec that is about as fast as any; plain all-reduce where that is fastest.
        aggregate: a rule by name ("average", "multi-krum", "nnm+median", ...) or object; rules see decoded vectors.
        f: how many ranks may be faulty.
        trust: who aggregates. "sharded": every rank a part. "server": rank 0, which must be trusted, all of it.
            "replicated": every rank all of it, and ranks compare what they received: nobody is trusted.
        route, schedule: "flat" and "fifo" so far; others are refused.
        sync: "every-step", or a rule for averaging models now and then ("adacomm", "fixed:20"; `prepare` only).
        transport: a name or a `Transport` object.
        deadline_s: seconds after which a message counts as missing, on transports that can go on without it.
        topology: "sharded", or "allgather": every rank gets all messages, one latency less, n/2 times the bytes.
            "auto": allgather for 2 ranks, where the bytes are the same, and where codec="auto" measured a fast link.
        pull: "gradient": the mean gradient travels back, and any optimizer runs on it. "delta": owners run the
            optimizer on their parts and the change travels back (`prepare` only, elementwise optimizers).
        quarantine: when a rank is left out for good; a `Quarantine`, True for its defaults, None for never.
        momentum: of each worker's gradient before a robust rule sees it.
        on_nonfinite: "raise" on all ranks, or "skip" the step on all ranks; nothing is changed in either case.
        warmup_steps: steps that go uncompressed at first.
        rules: codec rules by parameter, before `codec`.
        min_numel: parameters with fewer values are sent raw, joined.
        timeout_s: a rank that is silent for so long is taken for dead.

    Raises:
        InvalidValue: an unknown name, parts that don't go together (with the reason), or a rule that n ranks can't hold
            against f faulty ones.
    """

    def __init__(
        self,
        codec: str | Codec | CodecRules = "3lc",
        aggregate: str | Rule = "average",
        *,
        f: int = 0,
        trust: Trust = "sharded",
        route: str = "flat",
        schedule: str = "fifo",
        sync: Any = EVERY_STEP,
        transport: str | Transport = "collective",
        deadline_s: float | None = None,
        topology: Topology = "auto",
        pull: Pull = "gradient",
        quarantine: Quarantine | bool | None = None,
        momentum: float = 0.0,
        on_nonfinite: OnNonFinite = "raise",
        warmup_steps: int = 0,
        rules: Iterable[CodecRule] = (),
        min_numel: int = 1024,
        timeout_s: float = 300.0,
    ) -> None:
        for slot, found, known in (("route", route, "flat"), ("schedule", schedule, "fifo")):
            if found != known:
                raise unknown_name(f"comm: {slot}", found, [known])
        auto = isinstance(codec, str) and codec.casefold() == "auto"
        named = "raw" if auto else codec
        self._by_name = named if isinstance(named, str) else None
        self.codecs = named if isinstance(named, CodecRules) else CodecRules(named, rules, min_numel=min_numel)
        self.rule = aggregation.get(aggregate)
        quarantine = Quarantine() if quarantine is True else quarantine or None
        self.options = Options(
            f=f, trust=trust, topology=topology, pull=pull, on_nonfinite=on_nonfinite, warmup_steps=warmup_steps,
            momentum=momentum, timeout_s=timeout_s, quarantine=quarantine, auto=auto, sync=sync,
        )  # fmt: skip
        self.transport = transports.get(transport, timeout_s, deadline_s)
        lossy, late = self.transport.lossy, getattr(self.transport, "deadline_s", None) is not None
        self.options.check(self.rule, self.codecs, self.transport.world_size, lossy=lossy, may_miss=lossy or late)
        self._account = ExchangeReport()
        self.coder = Coder(self.transport.world_size, self._account, lossy=lossy)
        self.pipeline = Pipeline(
            self.transport, self.coder, self.rule, self._account, f=f, trust=trust, quarantine=quarantine
        )
        self.courier = Courier()
        self.momentum = WorkerMomentum(momentum) if momentum else None
        self.automatic = Automatic(self.transport, self._adopt, self.drain) if auto else None
        self._order: list[str] = []
        self._sizes: list[tuple[str, int]] = []
        self._layout: Layout | None = None
        self._liveness: Liveness | None = None
        self._delta: DeltaOptimizer | None = None

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Make `optimizer.step()` exchange gradients first; all ranks start from rank 0's parameters and buffers.

        Returns:
            The model and the optimizer to train with: the same, or with `sync` a `LocalUpdate` around the optimizer.

        Raises:
            InvalidValue: models differ between ranks; checked before any gradient travels.
            UnsupportedTensor: a layer makes sparse gradients; names the parameter.
        """
        if self.options.sync != EVERY_STEP:
            return model, self._local(model, optimizer)
        refuse_sparse(model)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.register(named)
        for tensor in (*(p.data for p in model.parameters()), *model.buffers()):
            self.transport.broadcast(tensor)
        if self.options.pull == "delta":
            self._delta = DeltaOptimizer(optimizer, dict(named), self._units(self._order), self.transport.rank)
            self.pipeline.transform = self._delta

        def exchange(*_: Any) -> None:
            for _name, parameter in named:
                if parameter.grad is None:  # unused in this step: a zero input, so its residual still drains
                    parameter.grad = torch.zeros_like(parameter)
            counted = self.reduce({name: parameter.grad for name, parameter in named if parameter.grad is not None})
            for _name, parameter in named:
                if counted and self._delta is not None and parameter.grad is not None:
                    parameter.data.add_(parameter.grad)
                if not counted or self._delta is not None:
                    parameter.grad = None  # the optimizer's own step then passes over it

        optimizer.register_step_pre_hook(exchange)
        return model, optimizer

    def attach(self, ddp: DistributedDataParallel) -> None:
        """Make this exchange the communication hook of a DDP model; it replaces DDP's all-reduce.

        Raises:
            InvalidValue: options that a hook can't hold, with the reason; a hook or another group is there already.
            UnsupportedTensor: a layer makes sparse gradients; names the parameter.
        """
        Hook(self, ddp).register()

    def register(self, named: Sequence[tuple[str, Tensor]]) -> None:
        """Fix the parameters that will be exchanged; the same names and shapes on every rank.

        Raises:
            InvalidValue: they differ; names the first rank and parameter that does.
        """
        kind = f"{self.rule!r} {self.codecs.default!r} {self.options}"
        check_models(self.transport, named, kind)
        self._order = [name for name, _ in named]
        self._sizes = [(name, p.numel()) for name, p in named]
        self._lay_out(self.options.topology)
        if self._liveness is None and dist.is_initialized():
            self._liveness = Liveness(
                self.transport.rank, self.transport.world_size, self.options.timeout_s, self.courier.fail
            )
            self._liveness.start()

    def reduce(self, gradients: Mapping[str, Tensor]) -> bool:
        """Replace each rank's gradients by the aggregate of all ranks', in place.

        Returns:
            Whether the step counts: False where all ranks skip it, gradients as they were.

        Raises:
            NonFiniteGradient: more than f ranks have values that are not finite: raised on every rank, nothing was
                changed. WireError: a message to this rank was broken. RunFailed: a rank is gone or failed, by name.
        """
        return self.courier.submit(lambda: self.exchange_now(gradients)).result()

    def exchange_now(self, gradients: Mapping[str, Tensor]) -> bool:
        """`reduce` in the calling thread: what the courier does."""
        account = self._account
        if self._liveness is not None:
            self._liveness.step = account.steps
        for name, gradient in gradients.items():
            if gradient.layout != torch.strided:
                raise sparse_gradient(name)
        try:
            if self.automatic is not None:
                self._automatic(gradients)
            else:
                self._exchange(gradients, account.steps)
        except NonFiniteGradient:
            account.steps += 1
            if self.options.on_nonfinite == "skip":
                account.skipped += 1
                return False
            raise
        except DrivetrainError as error:
            if self._liveness is not None:
                self._liveness.tell(error)
            raise
        except RuntimeError as error:
            raise self.explain(error) from None
        account.steps += 1
        return True

    def explain(self, error: RuntimeError) -> RuntimeError:
        """What a collective's error means: which rank is gone, where that can be found out (it takes seconds)."""
        return self._liveness.explain(error) if self._liveness is not None else error

    def drain(self, gradients: Mapping[str, Tensor]) -> None:
        """Add what the codecs still hold back of some parameters to this rank's gradients, for a plain mean."""
        if self._layout is not None and (len(self.coder.push_feedback) or len(self.coder.pull_feedback)):
            self.coder.drain({name: s for name, s in self._layout.slices.items() if name in gradients}, gradients)

    def report(self) -> ExchangeReport:
        """The account so far."""
        account, coder = self._account, self.coder
        account.residual_norm = {"push": coder.push_feedback.norm(), "pull": coder.pull_feedback.norm()}
        if self._layout is not None:
            for name, slices in self._layout.slices.items():
                if name in account.parameters:
                    norms = [coder.push_feedback.norm(piece.key) for piece in slices]
                    account.parameters[name].residual = sum(norm**2 for norm in norms) ** 0.5
        account.suspicion = self.pipeline.suspicion.report() if self.options.f else []
        account.quarantined = list(self.pipeline.left_out)
        return account

    def state_dict(self) -> dict[str, Any]:
        """This rank's residuals by parameter name, as torch.save takes them."""
        layout, coder = self._laid_out(), self.coder
        state = states.save(layout, self.transport.rank, coder.push_feedback, coder.pull_feedback)
        state |= {"account": self._account.state_dict(), "suspicion": self.pipeline.suspicion.state_dict()}
        if self.momentum is not None:
            state["momentum"] = {name: values.clone() for name, values in self.momentum.means.items()}
        if self._delta is not None:
            state["delta"] = self._delta.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up residuals that `state_dict` gave on as many ranks; see `reshard_states` for another number.

        Raises:
            InvalidValue: another format or number of ranks.
        """
        coder = self.coder
        states.load(state, self._laid_out(), self.transport.rank, coder.push_feedback, coder.pull_feedback)
        if "account" in state:
            self._account.load_state_dict(state["account"])
        if "suspicion" in state:
            self.pipeline.suspicion.load_state_dict(state["suspicion"])
        if self.momentum is not None:
            self.momentum.means = dict(state.get("momentum", {}))
        if self._delta is not None and "delta" in state:
            self._delta.load_state_dict(state["delta"])

    def close(self) -> None:
        """End the threads; other ranks will not take this one for dead."""
        self.courier.close()
        if self._liveness is not None:
            self._liveness.close()
        self.transport.close()

    def _exchange(self, gradients: Mapping[str, Tensor], step: int) -> None:
        self.coder.plain = step < self.options.warmup_steps
        units = self._units(gradients)
        if self.momentum is None:
            self.pipeline.run(units, gradients, self._order, step)
            return
        means = self.momentum.of(gradients)
        results = {name: mean.clone() for name, mean in means.items()}
        self.pipeline.run(units, results, self._order, step)
        self.momentum.keep(means)
        for name, result in results.items():
            gradients[name].detach().copy_(result)

    def _adopt(self, chosen: Chosen) -> None:
        """Use what codec="auto" chose."""
        self.codecs = CodecRules(chosen.codec or "raw", self.codecs.rules, min_numel=self.codecs.min_numel)
        self._lay_out(chosen.topology)

    def _automatic(self, gradients: Mapping[str, Tensor]) -> None:
        auto, account = self.automatic, self._account
        assert auto is not None
        if not auto.plain:
            if auto.settled:
                self._exchange(gradients, account.steps)
            else:
                auto.trial(lambda: self._exchange(gradients, account.steps))
        else:
            before = self.transport.sent
            with account.timed("push"):
                auto.all_reduce({name: gradients[name] for name in self._order if name in gradients})
            account.bytes_wire += self.transport.sent - before
            account.bytes_raw += self.transport.sent - before
        account.decision = auto.reason

    def _lay_out(self, topology: str) -> None:
        n, trust = self.transport.world_size, self.options.trust
        # Two ranks send as many bytes either way, and without a pull stage lose less and wait once.
        both = topology == "auto" and n == 2 and not self.options.f and self.options.pull == "gradient"
        self.pipeline.to_all = trust == "replicated" or (trust == "sharded" and (topology == "allgather" or both))
        self.pipeline.to_all = self.pipeline.to_all and not self.pipeline.may_miss
        codecs = self.codecs.assign(self._sizes)
        self._layout = Layout(
            self._sizes, codecs, n, "replicated" if self.pipeline.to_all else trust, self.codecs.min_numel
        )

    def _units(self, names: Iterable[str]) -> list[Unit]:
        return self._laid_out().batch(names)

    def _laid_out(self) -> Layout:
        if self._layout is None:
            raise InvalidValue("comm: this exchange has no parameters yet", hint="call prepare or attach first")
        return self._layout

    def _local(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        from .sync import prepare_local

        if not isinstance(self.transport, Collective):
            raise InvalidValue(
                "comm: sync averages models over the collective transport", hint='transport="collective"'
            )
        # Given by name alone, a codec gets the defaults that suit models' changes, which are not those for gradients.
        codec = self.codecs if self.codecs.rules or self._by_name is None else self._by_name
        _, local = prepare_local(
            model, optimizer, self.options.sync, codec=codec, aggregate=self.rule,
            f=self.options.f, timeout=self.options.timeout_s,
        )  # fmt: skip
        return local


reshard_states, digest = states.reshard_states, states.digest
