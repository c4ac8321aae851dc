"""Torch optimizers run without importing torch's compiler."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adafactor, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchtune.config import Component, lazy
from torchtune.training import build_optimizer

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
import torch
from torch.optim import {name}
from torch.optim.lr_scheduler import LambdaLR
from torchtune.config import lazy
from torchtune.training import build_optimizer
torch.manual_seed(0)
p = torch.nn.Parameter(torch.randn(5, 3))
optimizer = build_optimizer(lazy({name}, {settings}), torch.nn.ParameterList([p]))
schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
for i in range(4):
    p.grad = torch.randn(5, 3)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
assert "torch._dynamo" not in sys.modules
assert p.requires_grad and not any(v.requires_grad for v in optimizer.state[p].values() if isinstance(v, torch.Tensor))
print(p.tolist())
"""
CASES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "fused": (AdamW, {"lr": 0.1, "weight_decay": 0.01, "fused": True}),
    "plain": (AdamW, {"lr": 0.1, "foreach": False, "amsgrad": True}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "adafactor": (Adafactor, {"lr": 0.1}),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_match_torch_without_importing_its_compiler(case: str) -> None:
    kind, settings = CASES[case]
    arguments = ", ".join(f"{name}={value}" for name, value in settings.items())
    program = PROGRAM.format(name=kind.__name__, settings=arguments)
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(5, 3))
    optimizer = kind([p], **settings)
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in range(4):
        p.grad = torch.randn(5, 3)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert process.stdout.strip() == str(p.tolist())


HOOKED_PROGRAM = """
import sys
import torch
from torch.optim import SGD
from torchtune.config import lazy
from torchtune.training import build_optimizer
p = torch.nn.Parameter(torch.ones(2))
optimizer = build_optimizer(lazy(SGD, lr=0.5), torch.nn.ParameterList([p]))
values = []
optimizer.register_step_post_hook(lambda *_: values.append(p.tolist()))
p.grad = torch.ones(2)
optimizer.step()
assert values == [[0.5, 0.5]], values
"""


def test_optimizer_hooks_are_called() -> None:
    subprocess.run([sys.executable, "-c", HOOKED_PROGRAM], cwd=ROOT, check=True)


class CustomSGD(SGD):
    """A third-party optimizer."""


def test_a_third_party_optimizer_is_not_patched() -> None:
    component: Component[Optimizer] = lazy(CustomSGD, lr=0.1)
    optimizer = build_optimizer(component, torch.nn.ParameterList([torch.ones(2)]))
    assert "step" not in vars(optimizer)
