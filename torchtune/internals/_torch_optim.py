"""torch's optimizers without its compiler, which they import only to tell it that they are not to be compiled."""

import inspect
import sys
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from torchtune.internals._internal import Internal


def spare_the_compiler() -> None:
    """Let optimizers be made without importing torch._dynamo: more than a second, and 60 MB (torch 2.13).

    Methods of `Optimizer` are marked as not to be compiled when they are first called, which imports the compiler to do
    so; what it would return is put where they look for it. Where the compiler is there already, nothing is changed.
    """
    if "torch._dynamo" not in sys.modules and OPTIMIZER_STEP.is_enabled():
        _mark_methods()


def lighten(optimizer: Optimizer) -> None:
    """Let an optimizer of torch's own take its steps without importing torch._dynamo, in place."""
    is_torchs = type(optimizer).__module__.startswith("torch.optim.")
    if "torch._dynamo" not in sys.modules and is_torchs and OPTIMIZER_STEP.is_enabled():
        _replace_step(optimizer)


def _mark_methods() -> None:
    for method in vars(Optimizer).values():
        marked = getattr(method, "__wrapped__", None)
        if marked is not None and getattr(method, "__module__", "") == "torch.optim.optimizer":
            vars(marked).setdefault("__dynamo_disable", marked)


def _replace_step(optimizer: Optimizer) -> None:
    """Let an optimizer's step be the innermost one of its class.

    Its class's `step` is wrapped twice: to call hooks and a profiler, and to tell the compiler to stay away. The step
    itself is called without either, and without gradients as it is there; an optimizer with hooks keeps its own.
    """
    plain = type(optimizer).step
    light = torch.no_grad()(inspect.unwrap(plain))

    def take(self: Optimizer, *given: Any) -> Any:
        has_hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        return (plain if has_hooks else light)(self, *given)

    if not optimizer.defaults.get("differentiable", False):
        optimizer.step = MethodType(take, optimizer)  # type: ignore[method-assign]


def _takes_a_step() -> bool:
    """Make an optimizer, take a step and clear the gradient; the compiler must stay away."""
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
    "python benchmarks/training.py MODEL ROWS --ablate",
    fallback="torch imports its compiler: a second and 60 MB more",
    probe=_takes_a_step,
)


def takes_skips(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer's kernels leave an update out by a flag on the device (`skip_where`).

    Those of fused SGD do as well, but one that skips its first step leaves its momentum uninitialised (torch 2.13).
    """
    is_adam = isinstance(optimizer, (Adam, AdamW))
    return (
        is_adam
        and bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        and SKIPPED_STEP.is_enabled()
    )


def skip_where(optimizer: Optimizer, skips: Tensor) -> None:
    """Let an optimizer's next step change nothing if a flag is set, without asking the host.

    Args:
        optimizer: `takes_skips` holds for it.
        skips: A bool scalar on the parameters' device.
    """
    optimizer.grad_scale = None  # type: ignore[attr-defined]  # what torch.amp.GradScaler sets as well
    optimizer.found_inf = skips.float()  # type: ignore[attr-defined]


def _skips_a_step() -> bool:
    """Take a step that is to be left out, and one that is not."""
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
    '"numbers read a step later" of python benchmarks/training.py MODEL ROWS --ablate',
    fallback="the host waits for one flag a step",
    probe=_skips_a_step,
)
