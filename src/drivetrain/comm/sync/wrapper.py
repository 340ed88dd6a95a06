"""An optimizer around another: schedulers, scalers and training loops see one optimizer."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from drivetrain.base.errors import InvalidValue


class OptimizerWrapper(Optimizer):
    """Forwards everything that `torch.optim.Optimizer` has but the step to the inner optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        # Optimizer.__init__ would make parameter groups and a state of its own.
        if not isinstance(optimizer, Optimizer):
            raise InvalidValue(
                f"comm: the first argument is {type(optimizer).__name__}, wanted a torch optimizer",
                hint="LocalUpdate(torch.optim.SGD(model.parameters(), lr=0.1), model)",
            )
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.optimizer.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the inner optimizer's."""
        self.optimizer.zero_grad(set_to_none)

    def register_step_pre_hook(self, hook: Any) -> Any:
        """On the inner optimizer's step."""
        return self.optimizer.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Any) -> Any:
        """On the inner optimizer's step; it runs before an averaging."""
        return self.optimizer.register_step_post_hook(hook)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: the shared model has a fixed layout."""
        raise InvalidValue(
            "comm: parameters can't be added once models are averaged", hint="add them, then make LocalUpdate anew"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r})"
