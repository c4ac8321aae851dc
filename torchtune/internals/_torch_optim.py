"""Use torch's optimizers without importing torch._dynamo, and skip steps without waiting for the device."""

import inspect
import sys
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from torchtune.internals._probed_feature import ProbedFeature


def avoid_dynamo_import() -> None:
    """Avoid importing torch._dynamo when optimizers are built.

    The import takes over a second and 60 MB (torch 2.13). The first call of a method of `Optimizer` imports the
    compiler to mark the method as not compiled; this function sets the mark in advance. If the compiler is already
    imported, nothing changes.
    """
    if "torch._dynamo" not in sys.modules and OPTIMIZER_STEP.is_enabled():
        _mark_methods()


def avoid_dynamo_import_in_step(optimizer: Optimizer) -> None:
    """Avoid importing torch._dynamo in the steps of a torch optimizer, which is modified in place."""
    is_from_torch = type(optimizer).__module__.startswith("torch.optim.")
    if "torch._dynamo" not in sys.modules and is_from_torch and OPTIMIZER_STEP.is_enabled():
        _replace_step(optimizer)


def _mark_methods() -> None:
    for method in vars(Optimizer).values():
        marked = getattr(method, "__wrapped__", None)
        if marked is not None and getattr(method, "__module__", "") == "torch.optim.optimizer":
            vars(marked).setdefault("__dynamo_disable", marked)


def _replace_step(optimizer: Optimizer) -> None:
    """Replace an optimizer's step with the unwrapped step of its class.

    The class wraps `step` twice: to call hooks and a profiler, and to exclude it from compilation. The unwrapped step
    is called under `no_grad`; an optimizer with hooks uses the wrapped step.
    """
    wrapped = type(optimizer).step
    unwrapped = torch.no_grad()(inspect.unwrap(wrapped))

    def step(self: Optimizer, *args: Any) -> Any:
        has_hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        return (wrapped if has_hooks else unwrapped)(self, *args)

    if not optimizer.defaults.get("differentiable", False):
        optimizer.step = MethodType(step, optimizer)  # type: ignore[method-assign]


def _steps_without_compiler() -> bool:
    """Return whether an optimizer takes a step and clears the gradient without importing the compiler."""
    was_imported = "torch._dynamo" in sys.modules
    _mark_methods()
    parameter = torch.nn.Parameter(torch.ones(1, device="cpu"))
    optimizer = SGD([parameter], lr=0.5, foreach=False)
    _replace_step(optimizer)
    parameter.grad = torch.ones(1, device="cpu")
    optimizer.step()
    optimizer.zero_grad()
    is_updated = parameter.tolist() == [0.5] and parameter.grad is None
    return is_updated and ("torch._dynamo" in sys.modules) == was_imported


OPTIMIZER_STEP = ProbedFeature(
    name="optimizer step",
    tested_with="torch 2.13.0",
    benefit='the first step starts sooner, as measured in the line "torch\'s unmodified optimizer" of '
    "python -m benchmarks.training MODEL ROWS --ablate",
    fallback="torch imports its compiler, which takes a second and 60 MB",
    probe=_steps_without_compiler,
)


def supports_skipping(optimizer: Optimizer) -> bool:
    """Return whether an optimizer's kernels can skip an update if a flag on the device is set (`skip_step_if`).

    Fused SGD is not supported: its momentum remains uninitialised if the first step is skipped (torch 2.13).
    """
    is_adam = isinstance(optimizer, (Adam, AdamW))
    return (
        is_adam
        and bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        and SKIPPED_STEP.is_enabled()
    )


def skip_step_if(optimizer: Optimizer, should_skip: Tensor) -> None:
    """Skip an optimizer's next step if a flag is set, without waiting for the device.

    Args:
        optimizer: An optimizer for which `supports_skipping` returns True.
        should_skip: A bool scalar on the parameters' device.
    """
    optimizer.grad_scale = None  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
    optimizer.found_inf = should_skip.float()  # type: ignore[attr-defined]


def _skips_step() -> bool:
    """Return whether a step with the flag set changes nothing, and a step without it changes the parameter."""
    parameter = torch.nn.Parameter(torch.ones(2, device="cpu"))
    optimizer = torch.optim.AdamW([parameter], lr=0.5, fused=True)
    parameter.grad = torch.ones(2, device="cpu")
    values = []
    for should_skip in (True, False):
        skip_step_if(optimizer, torch.tensor(should_skip))
        optimizer.step()
        values.append(parameter.detach().clone())
    step = optimizer.state[parameter]["step"].item()
    return values[0].tolist() == [1.0, 1.0] and values[1].tolist() != [1.0, 1.0] and step == 1.0


SKIPPED_STEP = ProbedFeature(
    name="skipped optimizer step",
    tested_with="torch 2.13.0",
    benefit="the host does not wait for a GPU before an update (not yet run on a GPU); the cost on a CPU is "
    'measured in the line "metrics read one step later" of python -m benchmarks.training MODEL ROWS --ablate',
    fallback="the host waits for one flag per step",
    probe=_skips_step,
)
