"""torch's optimizers without its compiler, which they import only to tell it that they are not to be compiled."""

import inspect
import sys
from types import MethodType
from typing import Any

import torch
from torch.optim import Optimizer


def spare_the_compiler() -> None:
    """Let optimizers be made without importing torch._dynamo: more than a second, and 60 MB (torch 2.13).

    Methods of `Optimizer` are marked as not to be compiled when they are first called, which imports the compiler to do
    so; what it would return is put where they look for it. Where the compiler is there already, nothing is changed.
    """
    if "torch._dynamo" in sys.modules:
        return
    for method in vars(Optimizer).values():
        marked = getattr(method, "__wrapped__", None)
        if marked is not None and getattr(method, "__module__", "") == "torch.optim.optimizer":
            vars(marked).setdefault("__dynamo_disable", marked)


def lighten(optimizer: Optimizer) -> None:
    """Let an optimizer of torch's own take its steps without importing torch._dynamo, in place.

    Its class's `step` is wrapped twice: to call hooks and a profiler, and to tell the compiler to stay away. The step
    itself is called without either, and without gradients as it is there; an optimizer with hooks keeps its own.
    """
    if "torch._dynamo" in sys.modules or not type(optimizer).__module__.startswith("torch.optim."):
        return
    plain = type(optimizer).step
    light = torch.no_grad()(inspect.unwrap(plain))

    def take(self: Optimizer, *args: Any) -> Any:
        has_hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        return (plain if has_hooks else light)(self, *args)

    if not optimizer.defaults.get("differentiable", False):
        optimizer.step = MethodType(take, optimizer)  # type: ignore[method-assign]
