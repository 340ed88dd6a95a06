"""DDP's side: its communication hook, bucket by bucket or a step at a time.

DDP gives gradients in buckets while backward still runs, and rebuilds the buckets after the first step; parameters are
known here by name, so that no residual is lost by it. A rule that looks at the whole gradient, and a step that all
ranks may have to skip, need all buckets first: those steps are exchanged when the last bucket came. Otherwise each
bucket goes as it comes, beside backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from drivetrain.base.errors import InvalidValue

from .agreement import refuse_sparse
from .options import EVERY_STEP

if TYPE_CHECKING:
    from .exchange import Exchange

Waiting = tuple[Tensor, "torch.futures.Future[Tensor]"]


class Hook:
    """An exchange as DDP's communication hook.

    Raises:
        InvalidValue: options that a hook can't hold, with the reason.
    """

    def __init__(self, exchange: Exchange, ddp: DistributedDataParallel) -> None:
        options = exchange.options
        if not isinstance(ddp, DistributedDataParallel):
            raise InvalidValue(
                f"comm: attach takes a DistributedDataParallel model, this is a {type(ddp).__name__}",
                hint="exchange.prepare(model, optimizer) takes a plain model",
            )
        if options.sync != EVERY_STEP:
            raise InvalidValue(
                f"comm: sync={options.sync!r} averages models now and then, DDP's hook sees gradients at every step",
                hint="exchange.prepare(model, optimizer) on the plain model",
            )
        if options.pull == "delta":
            raise InvalidValue(
                'comm: pull="delta" runs the optimizer at the owners, and DDP\'s hook does not see the optimizer',
                hint="exchange.prepare(model, optimizer) on the plain model",
            )
        if dist.get_world_size(ddp.process_group) != exchange.transport.world_size:
            raise InvalidValue("comm: this DDP model trains on some ranks only, an exchange is of all ranks")
        self.exchange, self.ddp = exchange, ddp
        # Decisions about a whole step need the whole gradient.
        self._whole = (
            options.f > 0 or exchange.rule.kind != "coordinate" or options.on_nonfinite == "skip"
            or options.trust != "sharded"
            or exchange.transport.lossy  # such a channel has one size of vector
        )  # fmt: skip
        self._name_of: dict[int, str] = {}
        self._gradients: dict[str, Tensor] = {}
        self._waiting: list[Waiting] = []
        self._jobs: list[Future[bool]] = []

    def register(self) -> None:
        """Check the model on all ranks and take the hook's place."""
        refuse_sparse(self.ddp.module)
        ignored = set(getattr(self.ddp, "parameters_to_ignore", ()))
        named = [(name, p) for name, p in self.ddp.module.named_parameters() if p.requires_grad and name not in ignored]
        self._name_of = {id(p): name for name, p in named}
        self.exchange.register(named)
        self._name_the_gone()
        try:
            self.ddp.register_comm_hook(self, lambda hook, bucket: hook.take(bucket))
        except (RuntimeError, ValueError) as error:
            raise InvalidValue(f"comm: this DDP model takes no further hook: {str(error).splitlines()[0]}") from None

    def _name_the_gone(self) -> None:
        """DDP broadcasts buffers in its forward; where that breaks because a rank is gone, say which."""
        forward = self.ddp.forward

        def named(*inputs: Any, **options: Any) -> Any:
            try:
                return forward(*inputs, **options)
            except RuntimeError as error:
                if isinstance(error, dist.DistError) or "gloo" in str(error):
                    raise self.exchange.explain(error) from None
                raise

        self.ddp.forward = named  # type: ignore[method-assign]

    def take(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """One bucket; called by DDP in the same order on every rank."""
        exchange, buffer = self.exchange, bucket.buffer()
        auto = exchange.automatic
        if auto is not None and auto.plain and auto.settled:
            exchange.drain(self._named(bucket))
            return self._all_reduce(buffer)
        if not self._jobs and not self._waiting:
            torch.autograd.Variable._execution_engine.queue_callback(self._before_ddp_ends)
        future: torch.futures.Future[Tensor] = torch.futures.Future(devices=[buffer.device] if buffer.is_cuda else [])
        self._gradients |= self._named(bucket)
        self._waiting.append((buffer, future))
        if bucket.is_last() or not (self._whole or (auto is not None and not auto.settled)):
            self._send()
        return future

    def _named(self, bucket: dist.GradBucket) -> dict[str, Tensor]:
        names = [self._name_of[id(p)] for p in bucket.parameters()]
        return dict(zip(names, bucket.gradients(), strict=True))

    def _send(self) -> None:
        gradients, self._gradients = self._gradients, {}
        waiting, self._waiting = self._waiting, []
        buffer = waiting[0][0]
        ready = torch.cuda.current_stream(buffer.device).record_event() if buffer.is_cuda else None

        def work() -> bool:
            if ready is None:
                return self.exchange.exchange_now(gradients)
            with torch.cuda.device(buffer.device):
                torch.cuda.current_stream().wait_event(ready)
                return self.exchange.exchange_now(gradients)

        def done(_: Future[bool]) -> None:
            # DDP must end its backward in any case; `_after_ddp_ended` raises what went wrong, with its own message.
            for buffer, future in waiting:
                future.set_result(buffer)

        try:
            job = self.exchange.courier.submit(work)
        except BaseException as error:
            job = Future()
            job.set_exception(error)
        self._jobs.append(job)
        job.add_done_callback(done)

    def _before_ddp_ends(self) -> None:
        torch.autograd.Variable._execution_engine.queue_callback(self._after_ddp_ended)

    def _after_ddp_ended(self) -> None:
        """In the training thread, at the end of backward: raise, or skip the step."""
        jobs, self._jobs = self._jobs, []
        self._gradients, self._waiting = {}, []
        counted = [job.result() for job in jobs]  # of all jobs, so that none is left behind
        if not all(counted):
            for parameter in self.ddp.module.parameters():
                parameter.grad = None  # the optimizer passes over it: the step is skipped

    def _all_reduce(self, buffer: Tensor) -> torch.futures.Future[Tensor]:
        """What DDP does without a hook, on its own group: codec="auto" found nothing faster."""
        group = self.ddp.process_group
        buffer.div_(dist.get_world_size(group))
        work = dist.all_reduce(buffer, group=group, async_op=True)
        return work.get_future().then(_first)

    def __getstate__(self) -> Mapping[str, Any]:
        raise InvalidValue("comm: an attached exchange can't be pickled", hint="save exchange.state_dict()")


def _first(future: torch.futures.Future[Any]) -> Tensor:
    value = future.value()
    return value[0] if isinstance(value, (list, tuple)) else value
