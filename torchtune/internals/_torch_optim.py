"""torch's optimizers without importing torch._dynamo, and steps that are skipped on the device."""

import inspect
import sys
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from torchtune.internals._internal import Internal


def spare_the_compiler() -> None:
    """Let optimizers be built without importing torch._dynamo, which takes over a second and 60 MB (torch 2.13).

    The first call of a method of `Optimizer` imports the compiler to mark the method as not compiled; the result is put
    where the method looks for it. If the compiler is imported already, nothing is changed.
    """
    if "torch._dynamo" not in sys.modules and OPTIMIZER_STEP.is_enabled():
        _mark_methods()


def lighten(optimizer: Optimizer) -> None:
    """Let an optimizer of torch take its steps without importing torch._dynamo, in place."""
    is_torchs = type(optimizer).__module__.startswith("torch.optim.")
    if "torch._dynamo" not in sys.modules and is_torchs and OPTIMIZER_STEP.is_enabled():
        _replace_step(optimizer)


def _mark_methods() -> None:
    for method in vars(Optimizer).values():
        marked = getattr(method, "__wrapped__", None)
        if marked is not None and getattr(method, "__module__", "") == "torch.optim.optimizer":
            vars(marked).setdefault("__dynamo_disable", marked)


def _replace_step(optimizer: Optimizer) -> None:
    """Replace an optimizer's step by the unwrapped one of its class.

    The class wraps `step` twice: to call hooks and a profiler, and to exclude it from compilation. The unwrapped step
    is called under `no_grad`; an optimizer with hooks uses the wrapped one.
    """
    plain = type(optimizer).step
    light = torch.no_grad()(inspect.unwrap(plain))

    def take(self: Optimizer, *args: Any) -> Any:
        has_hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        return (plain if has_hooks else light)(self, *args)

    if not optimizer.defaults.get("differentiable", False):
        optimizer.step = MethodType(take, optimizer)  # type: ignore[method-assign]


def _takes_a_step() -> bool:
    """Build an optimizer, take a step and clear the gradient without importing the compiler."""
    was_imported = "torch._dynamo" in sys.modules
    _mark_methods()
    parameter = torch.nn.Parameter(torch.ones(1, device="cpu"))
    optimizer = SGD([parameter], lr=0.5, foreach=False)
    _replace_step(optimizer)
    parameter.grad = torch.ones(1, device="cpu")
    optimizer.step()
    optimizer.zero_grad()
    is_right = parameter.tolist() == [0.5] and parameter.grad is None
    return is_right and ("torch._dynamo" in sys.modules) == was_imported


OPTIMIZER_STEP = Internal(
    name="optimizer step",
    written_for="torch 2.13.0",
    gain='time to the first step: the line "torch\'s optimizer as it is" of '
    "python -m benchmarks.training MODEL ROWS --ablate",
    fallback="torch imports its compiler: a second and 60 MB more",
    probe=_takes_a_step,
)


def takes_skips(optimizer: Optimizer) -> bool:
    """Return whether an optimizer's kernels can skip an update by a flag on the device (`skip_where`).

    Fused SGD can as well, but leaves its momentum uninitialised if it skips the first step (torch 2.13).
    """
    is_adam = isinstance(optimizer, (Adam, AdamW))
    return (
        is_adam
        and bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        and SKIPPED_STEP.is_enabled()
    )


def skip_where(optimizer: Optimizer, skips: Tensor) -> None:
    """Skip an optimizer's next step if a flag is set, without waiting for the device.

    Args:
        optimizer: `takes_skips` holds for it.
        skips: A bool scalar on the parameters' device.
    """
    optimizer.grad_scale = None  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
    optimizer.found_inf = skips.float()  # type: ignore[attr-defined]


def _skips_a_step() -> bool:
    """Take a step that is skipped, and one that is not."""
    parameter = torch.nn.Parameter(torch.ones(2, device="cpu"))
    optimizer = torch.optim.AdamW([parameter], lr=0.5, fused=True)
    parameter.grad = torch.ones(2, device="cpu")
    values = []
    for skips in (True, False):
        skip_where(optimizer, torch.tensor(skips))
        optimizer.step()
        values.append(parameter.detach().clone())
    step = optimizer.state[parameter]["step"].item()
    return values[0].tolist() == [1.0, 1.0] and values[1].tolist() != [1.0, 1.0] and step == 1.0


SKIPPED_STEP = Internal(
    name="skipped optimizer step",
    written_for="torch 2.13.0",
    gain="no wait for the device before an update, on a GPU (not yet run on one); what it costs on a CPU: the line "
    '"numbers read a step later" of python -m benchmarks.training MODEL ROWS --ablate',
    fallback="the host waits for one flag a step",
    probe=_skips_a_step,
)
