"""Torch optimizers run without importing torch's compiler."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adafactor, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchtune.config import Component, lazy
from torchtune.training import build_optimizer

ROOT = Path(__file__).resolve().parents[2]
CASES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "fused": (AdamW, {"lr": 0.1, "weight_decay": 0.01, "fused": True}),
    "plain": (AdamW, {"lr": 0.1, "foreach": False, "amsgrad": True}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "adafactor": (Adafactor, {"lr": 0.1}),
}
PROGRAM = """
import json
import sys
import torch
from tests.training.test_optimizer_imports import CASES, four_steps
from torchtune.config import lazy
from torchtune.training import build_optimizer

def build(parameters, kind, settings):
    return build_optimizer(lazy(kind, **settings), torch.nn.ParameterList(parameters))

results = {}
for case, (kind, settings) in CASES.items():
    results[case], optimizer = four_steps(lambda parameters: build(parameters, kind, settings))
    assert "torch._dynamo" not in sys.modules, case
    (state,) = optimizer.state.values()
    assert not any(v.requires_grad for v in state.values() if isinstance(v, torch.Tensor)), case
hooked = torch.nn.Parameter(torch.ones(2))
optimizer = build([hooked], torch.optim.SGD, {"lr": 0.5})
optimizer.register_step_post_hook(lambda *_: results.update(hooked=hooked.tolist()))
hooked.grad = torch.ones(2)
optimizer.step()
print(json.dumps(results))
"""


def four_steps(build: Callable[[list[nn.Parameter]], Optimizer]) -> tuple[list[Any], Optimizer]:
    """Return the values of a parameter after four steps with random gradients, and the optimizer."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(5, 3))
    optimizer = build([p])
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in range(4):
        p.grad = torch.randn(5, 3)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert p.requires_grad
    return p.tolist(), optimizer


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Return the results of a process that has not imported torch's compiler."""
    command = [sys.executable, "-c", PROGRAM]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    loaded: dict[str, Any] = json.loads(process.stdout)
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_steps_match_torch_without_importing_its_compiler(case: str, results: dict[str, Any]) -> None:
    kind, settings = CASES[case]
    assert results[case] == four_steps(lambda parameters: kind(parameters, **settings))[0]


@pytest.mark.slow
def test_optimizer_hooks_are_called(results: dict[str, Any]) -> None:
    assert results["hooked"] == [0.5, 0.5]


class CustomSGD(SGD):
    """A third-party optimizer."""


def test_a_third_party_optimizer_is_not_patched() -> None:
    component: Component[Optimizer] = lazy(CustomSGD, lr=0.1)
    optimizer = build_optimizer(component, torch.nn.ParameterList([torch.ones(2)]))
    assert "step" not in vars(optimizer)
