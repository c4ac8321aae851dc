"""Optimizer steps, gradient clipping, and loss scaling in fp16."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from torchtune.selftest._check import Check, Difference
from torchtune.selftest._inputs import random_inputs
from torchtune.training import LossScale, clip_gradients

STEPS, LR, BETAS, EPS, WEIGHT_DECAY = 5, 1e-2, (0.9, 0.95), 1e-8, 0.1


def update_checks() -> Iterator[Check]:
    """Yield checks of AdamW's implementations, clipping and loss scaling."""
    for implementation in ("for-loop", "foreach", "fused"):
        yield Check("optimizer step", f"AdamW, {implementation}", partial(_adamw, implementation))
    yield Check("optimizer step", "gradient clipping", _clipping)
    yield Check("fp16 loss scaling", "small gradients", _small_gradients)
    yield Check("fp16 loss scaling", "overflow", _overflow)


def _adamw(implementation: str, device: torch.device) -> list[Difference]:
    shapes = {"weight": (40, 30), **{f"gradient {i}": (40, 30) for i in range(STEPS)}}
    inputs = {name: tensor.float() for name, tensor in random_inputs(shapes).items()}
    parameter = nn.Parameter(inputs["weight"].to(device, copy=True))
    options = {} if implementation == "for-loop" else {implementation: True}
    defaults = {"foreach": False, "fused": False} | options
    optimizer = torch.optim.AdamW(
        [parameter], lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, **defaults
    )
    for i in range(STEPS):
        parameter.grad = inputs[f"gradient {i}"].to(device, copy=True)
        optimizer.step()
    gradients = [inputs[f"gradient {i}"].double() for i in range(STEPS)]
    exact = _adamw_by_definition(inputs["weight"].double(), gradients)
    # Each step rounds a few times, relative to the parameter or to an update of about the learning rate.
    return [_difference("parameter", parameter, exact, 16 * STEPS)]


def _adamw_by_definition(weight: Tensor, gradients: list[Tensor]) -> Tensor:
    """Take steps of AdamW (arXiv 1711.05101, algorithm 2, with the decay multiplied by the learning rate)."""
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, start=1):
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        square = BETAS[1] * square + (1 - BETAS[1]) * gradient**2
        update = (mean / (1 - BETAS[0] ** step)) / ((square / (1 - BETAS[1] ** step)).sqrt() + EPS)
        weight = weight - LR * WEIGHT_DECAY * weight - LR * update
    return weight


def _clipping(device: torch.device) -> list[Difference]:
    inputs = {name: tensor.float() for name, tensor in random_inputs({"a": (50, 20), "b": (7,)}).items()}
    model = nn.ParameterDict(
        {name: torch.zeros_like(tensor, device=device) for name, tensor in inputs.items()}
    )
    for name, tensor in inputs.items():
        model[name].grad = tensor.to(device, copy=True)
    norm = clip_gradients(model, 2.0, 4.0)
    exact = {name: tensor.double() / 4.0 for name, tensor in inputs.items()}
    exact_norm = sum(((tensor**2).sum() for tensor in exact.values()), torch.zeros(())).sqrt()
    differences = [_difference("norm", norm, exact_norm, 32)]
    for name, tensor in exact.items():
        gradient = model[name].grad
        assert gradient is not None
        differences.append(_difference(f"gradient {name}", gradient, tensor * 2.0 / exact_norm, 64))
    return differences


def _small_gradients(device: torch.device) -> list[Difference]:
    """A gradient of 2^-30 underflows in fp16, whose smallest number is 2^-24, unless the loss is scaled."""
    scale = LossScale("fp16", device)
    parameter = nn.Parameter(torch.ones((), device=device))
    hidden = parameter.half() * torch.tensor(2.0**-15, dtype=torch.float16, device=device)
    scale.apply(hidden.float() * 2.0**-15).backward()  # type: ignore[no-untyped-call]  # torch's
    assert parameter.grad is not None
    gradient = parameter.grad / scale.on(device)
    return [_difference("gradient", gradient, torch.tensor(2.0**-30, dtype=torch.float64), 1)]


def _overflow(device: torch.device) -> list[Difference]:
    scale = LossScale("fp16", device)
    initial = scale.on(device).clone()
    scale.update(torch.ones((), dtype=torch.bool, device=device))
    halved = scale.on(device).clone()
    scale.update(torch.zeros((), dtype=torch.bool, device=device))
    expected = initial.cpu().double() / 2
    return [
        _difference("factor after an overflow", halved, expected, 0),
        _difference("factor after the next step", scale.on(device), expected, 0),
        Difference("number of steps without an overflow", abs(scale.state_dict()["good_steps"] - 1), 0.5),
    ]


def _difference(name: str, actual: Tensor, exact: Tensor, n_roundings: int) -> Difference:
    error = (actual.detach().cpu().double() - exact).abs().max() / exact.abs().max()
    return Difference(name, float(error), max(n_roundings, 0.5) * torch.finfo(torch.float32).eps)
