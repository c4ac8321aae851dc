"""Learning rate schedules with warm-up, and functions that build schedulers and optimizers.

Each schedule is a component: `lr_scheduler: Component[LRScheduler] = lazy(cosine_with_warmup, warmup_steps=10)`.
torch's schedulers can also be used. `total_steps` is set to the length of the run, unless the config sets it.
"""

import inspect
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from torchtune.config import Component, FieldError, InstantiationError, instantiate
from torchtune.internals import avoid_dynamo_import, avoid_dynamo_import_in_step
from torchtune.training._optimizer_errors import build_error

_logger = logging.getLogger(__name__)

_NO_LENGTH = "total_steps: the number of steps in the run is required; recipes pass it"


def build_scheduler(
    component: Component[LRScheduler] | None, optimizer: Optimizer, total_steps: int
) -> LRScheduler:
    """Build a learning rate scheduler.

    Args:
        component: The config's scheduler; None: constant learning rates.
        optimizer: The optimizer, passed as the first argument.
        total_steps: Length of the run (optimizer steps); passed if the component accepts it and the config lacks it.

    Raises:
        ValueError: The scheduler is not supported.
    """
    if component is None:
        return constant_with_warmup(optimizer)
    accepts_length = "total_steps" in inspect.signature(component.func).parameters
    is_unset = component.keywords.get("total_steps") is None
    length = {"total_steps": total_steps} if accepts_length and is_unset else {}
    scheduler = instantiate(component, optimizer, **length)
    if isinstance(scheduler, ReduceLROnPlateau):
        message = "ReduceLROnPlateau is not supported: recipes do not pass it a metric; choose a different scheduler"
        raise FieldError(message, "lr_scheduler")
    return scheduler


class Schedule:
    """The learning rate schedule of a run: a torch scheduler that can resume with a different number of steps.

    If a run has more steps than estimated, a schedule of fixed length keeps its final learning rates.

    Args:
        scheduler: The scheduler (`build_scheduler`).
        total_steps: Number of optimizer steps in the whole run, which may be an estimate.
    """

    def __init__(self, scheduler: LRScheduler, total_steps: int) -> None:
        self._scheduler = scheduler
        self.total_steps = total_steps
        self._has_stepped = False

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group for the next step."""
        return float(self._scheduler.get_last_lr()[0])

    def step(self) -> None:
        """Advance to the learning rates of the next step, even if this optimizer step was skipped."""
        fixed_length = self._scheduler.state_dict().get("total_steps")  # OneCycleLR raises past its end
        if fixed_length is not None and self._scheduler.last_epoch >= fixed_length - 1:
            return
        if self._has_stepped:
            self._scheduler.step()
            return
        self._has_stepped = True
        # torch warns if the first optimizer step was skipped. Later steps do not use `catch_warnings`: it resets the
        # registry of warnings already shown, so libraries' warnings would be repeated at every step.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for `load_state_dict`."""
        return {"total_steps": self.total_steps, "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved schedule; if the length of the run has changed, use the learning rates for the new length.

        Raises:
            ValueError: The run's length has changed, and the scheduler cannot change its length.
        """
        saved, has_changed = state["scheduler"], state["total_steps"] != self.total_steps
        if has_changed and "total_steps" in saved:
            raise ValueError(
                f"lr_scheduler: {type(self._scheduler).__name__} was built for {saved['total_steps']} steps and cannot"
                " change its length; restore the original epochs and step limits"
            )
        self._scheduler.load_state_dict(saved)
        if has_changed and isinstance(self._scheduler, LambdaLR):
            self._scheduler.last_epoch -= 1
            self._scheduler.step()


def build_optimizer(component: Component[Optimizer], model: nn.Module) -> Optimizer:
    """Build the optimizer of a model's trained parameters.

    Args:
        component: The config's optimizer.
        model: The model; its trained parameters are those with `requires_grad`.

    Raises:
        ConfigError: The optimizer rejects the parameters.
        ValueError: The optimizer is not supported.
    """
    avoid_dynamo_import()
    try:
        optimizer = instantiate(component, [p for p in model.parameters() if p.requires_grad])
    except InstantiationError as error:
        mistake = build_error(error, component.func)
        if mistake is None:
            raise
        raise mistake from error
    if isinstance(optimizer, LBFGS):
        message = "LBFGS is not supported: recipes do not pass it a closure; choose a different optimizer"
        raise FieldError(message, "optimizer")
    if isinstance(optimizer, SparseAdam):
        message = "SparseAdam is not supported: the gradients are dense; choose a different optimizer"
        raise FieldError(message, "optimizer")
    avoid_dynamo_import_in_step(optimizer)
    return optimizer


def cosine_with_warmup(
    optimizer: Optimizer,
    *,
    warmup_steps: int | float = 0,
    min_ratio: float = 0.0,
    total_steps: int | None = None,
) -> LRScheduler:
    """Warm up linearly, then decay along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5).

    Args:
        optimizer: The optimizer; its learning rates are the peak rates.
        warmup_steps: Linear warm-up in optimizer steps or, if below 1, as a fraction of the run (rounded up). It starts
            at peak / warmup_steps. If it would last the whole run, it is shortened to a tenth of the run.
        min_ratio: Final learning rate as a fraction of the peak.
        total_steps: Length of the schedule in optimizer steps, after which the decay is complete; null: the whole run.

    Raises:
        ValueError: An argument is out of its range.
    """
    return _warmed_up(
        optimizer, warmup_steps, min_ratio, total_steps, lambda done: (1 + math.cos(math.pi * done)) / 2
    )


def linear_with_warmup(
    optimizer: Optimizer,
    *,
    warmup_steps: int | float = 0,
    min_ratio: float = 0.0,
    total_steps: int | None = None,
) -> LRScheduler:
    """Warm up linearly, then decay linearly.

    Args:
        optimizer: The optimizer; its learning rates are the peak rates.
        warmup_steps: Linear warm-up in optimizer steps or, if below 1, as a fraction of the run (rounded up). It starts
            at peak / warmup_steps. If it would last the whole run, it is shortened to a tenth of the run.
        min_ratio: Final learning rate as a fraction of the peak.
        total_steps: Length of the schedule in optimizer steps, after which the decay is complete; null: the whole run.

    Raises:
        ValueError: An argument is out of its range.
    """
    return _warmed_up(optimizer, warmup_steps, min_ratio, total_steps, lambda done: 1 - done)


def constant_with_warmup(
    optimizer: Optimizer, *, warmup_steps: int | float = 0, total_steps: int | None = None
) -> LRScheduler:
    """Warm up linearly, then keep the learning rate constant.

    Args:
        optimizer: The optimizer; its learning rates are the peak rates.
        warmup_steps: Linear warm-up in optimizer steps or, if below 1, as a fraction of the run (rounded up). It starts
            at peak / warmup_steps.
        total_steps: Number of optimizer steps to which a fractional warmup_steps refers; null: the whole run.

    Raises:
        ValueError: An argument is out of its range.
    """
    warmup = _warmup(warmup_steps, total_steps) if 0 < warmup_steps < 1 else warmup_steps
    return _warmed_up(optimizer, warmup, 0.0, math.floor(warmup) + 1, lambda _: 1.0)


def warmup_stable_decay(
    optimizer: Optimizer,
    *,
    warmup_steps: int | float = 0,
    decay_steps: int | None = None,
    min_ratio: float = 0.0,
    total_steps: int | None = None,
) -> LRScheduler:
    """Warm up linearly, stay constant, then decay linearly (Hu et al. 2024, arXiv:2404.06395, section 4).

    Args:
        optimizer: The optimizer; its learning rates are the peak rates.
        warmup_steps: Linear warm-up in optimizer steps or, if below 1, as a fraction of the run (rounded up). It starts
            at peak / warmup_steps. If it would last the whole run, it is shortened to a tenth of the run.
        decay_steps: Number of final optimizer steps over which the rate decays; null: a tenth of the run.
        min_ratio: Final learning rate as a fraction of the peak.
        total_steps: Length of the schedule in optimizer steps, after which the decay is complete; null: the whole run.

    Raises:
        ValueError: An argument is out of its range.
    """
    if total_steps is None:
        raise ValueError(_NO_LENGTH)
    warmup = _warmup(warmup_steps, total_steps)
    decay = decay_steps if decay_steps is not None else max(1, total_steps // 10)
    if decay < 1:
        raise ValueError(f"decay_steps: expected an int above 0, got {decay}")
    remaining = total_steps - warmup
    if decay > remaining:
        _logger.warning(
            "decay_steps: a decay of %d steps is too long for a run of %d steps; shortened to the %d steps after"
            " warm-up",
            decay,
            total_steps,
            remaining,
        )
        decay = remaining

    def curve(done: float) -> float:
        """Return 1 until the decay begins, then values that decrease to 0."""
        return min(1.0, (1 - done) * remaining / decay)

    return _warmed_up(optimizer, warmup, min_ratio, total_steps, curve)


def _warmed_up(
    optimizer: Optimizer,
    warmup_steps: float,
    min_ratio: float,
    total_steps: int | None,
    curve: Callable[[float], float],
) -> LRScheduler:
    """Build a schedule from a decay curve, which maps progress from 0 to 1 to a factor from 1 to 0."""
    if not 0 <= min_ratio <= 1:
        raise ValueError(f"min_ratio: expected a number from 0 to 1, got {min_ratio}")
    if total_steps is None:
        raise ValueError(_NO_LENGTH)
    warmup = _warmup(warmup_steps, total_steps)

    def factor(step: int) -> float:
        """Return the fraction of the peak learning rate at an optimizer step, counted from 0."""
        if step < warmup:
            return (step + 1) / warmup
        done = min((step - warmup) / (total_steps - warmup), 1.0)
        return min_ratio + (1 - min_ratio) * curve(done)

    return LambdaLR(optimizer, factor)


def _warmup(steps: float, total_steps: int | None) -> int:
    """Return the number of warm-up steps; a warm-up as long as the run is shortened, with a warning."""
    if steps < 0 or (steps >= 1 and steps != int(steps)):
        raise ValueError(
            f"warmup_steps: expected a whole number of steps, or a fraction of the run (less than 1), got {steps}"
        )
    if total_steps is None:
        raise ValueError(_NO_LENGTH)
    warmup = math.ceil(steps * total_steps) if steps < 1 else int(steps)
    if warmup < total_steps:
        return warmup
    shortened = total_steps // 10
    message = "warmup_steps: a warm-up of %d steps is too long for a run of %d steps; shortened to %d"
    _logger.warning(message, warmup, total_steps, shortened)
    return shortened
