"""A check compares one computation with plain code in float64; its result is a row of the report."""

import time
from collections.abc import Callable, Iterable, Mapping
from math import isnan
from typing import Literal

import torch
from attrs import evolve, frozen
from torch import Tensor

Status = Literal["ok", "wrong", "not available"]
"""The outcome of a check."""


class Unavailable(Exception):  # noqa: N818 - it is not an error
    """The machine does not support a check; the message gives the reason."""


@frozen
class Difference:
    """The difference between a computed tensor and the exact one."""

    name: str
    """The tensor, such as "output" or "gradient of q"."""
    error: float
    """The largest difference of an element, relative to the largest element of the exact tensor."""
    allowed: float
    """The largest permitted error."""


@frozen
class Result:
    """The result of a check."""

    part: str
    """The part of the library, such as "attention"."""
    name: str
    """The case, such as a model and a precision."""
    status: Status
    detail: str = ""
    """What is wrong or not available, and measurements to report."""
    error: float = 0.0
    """The error of the tensor that comes closest to its permitted error."""
    allowed: float = 0.0
    """The permitted error of that tensor."""
    seconds: float = 0.0


@frozen
class Check:
    """A comparison of one computation with plain code."""

    part: str
    """The part of the library that is checked."""
    name: str
    """The case."""
    differences: Callable[[torch.device], Iterable[Difference | str]]
    """Computes the differences on a device; a string is a measurement to report, such as a speed.

    Raises:
        Unavailable: The device does not support the computation.
    """


def run_check(check: Check, device: torch.device) -> Result:
    """Run a check; an exception is a result as well."""
    start = time.perf_counter()
    result = Result(check.part, check.name, "ok")
    try:
        outcomes = list(check.differences(device))
        differences = [outcome for outcome in outcomes if isinstance(outcome, Difference)]
        worst = max(differences, key=lambda d: float("inf") if isnan(d.error) else d.error / d.allowed)
        wrong = [d for d in differences if not d.error <= d.allowed]  # an error may be NaN
        texts = [f"{d.name}: error {d.error:.1e}, allowed {d.allowed:.1e}" for d in wrong]
        texts += [outcome for outcome in outcomes if isinstance(outcome, str)]
        status: Status = "wrong" if wrong else "ok"
        result = evolve(
            result, status=status, detail="; ".join(texts), error=worst.error, allowed=worst.allowed
        )
    except Unavailable as error:
        result = evolve(result, status="not available", detail=str(error))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        result = evolve(result, status="wrong", detail=f"{type(error).__name__}: {reason}")
    return evolve(result, seconds=time.perf_counter() - start)


Function = Callable[[Mapping[str, Tensor]], Tensor]
"""Computes an output from named inputs."""


def compare(
    function: Function,
    plain: Function,
    inputs: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    *,
    frozen: Iterable[str] = (),
) -> list[Difference]:
    """Compare a function and its gradients with plain code in float64.

    The permitted error is four times the error of the plain code in the same precision, plus four roundings: a correct
    kernel may sum in another order and round at other places than the plain code.

    Args:
        function: The computation to check.
        plain: The same computation in plain code, which is run on the CPU in float64 and in `dtype`.
        inputs: Floating-point inputs on the CPU; they are rounded to `dtype` first.
        dtype: The precision of the computation.
        device: The device of the computation.
        frozen: The names of inputs without a gradient.
    """
    rounded = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    names = [name for name in inputs if name not in set(frozen)]
    exact = _run(plain, {name: tensor.double() for name, tensor in rounded.items()}, names)
    plain_result = _run(plain, rounded, names)
    actual = _run(function, {name: tensor.to(device) for name, tensor in rounded.items()}, names)
    return [
        Difference(
            name,
            _error(actual[name], exact[name]),
            4 * _error(plain_result[name], exact[name]) + 4 * torch.finfo(dtype).eps,
        )
        for name in exact
    ]


def _run(function: Function, inputs: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Return the output and the gradients of a fixed weighted sum of its elements, on the CPU in float64."""
    leaves = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    trained = {name: leaves[name].requires_grad_() for name in names}
    output = function(leaves)
    # The weights are powers of two, which all precisions represent exactly.
    weights = 0.5 ** (torch.arange(output.numel()) % 3).double() * (
        1 - 2.0 * (torch.arange(output.numel()) % 2)
    )
    total = (output.reshape(-1) * weights.to(output.device, output.dtype)).sum(dtype=_sum_dtype(output.dtype))
    gradients = torch.autograd.grad(total, list(trained.values())) if trained else ()
    results = {"output": output, **dict(zip((f"gradient of {n}" for n in trained), gradients, strict=True))}
    return {name: tensor.detach().cpu().double() for name, tensor in results.items()}


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _error(actual: Tensor, exact: Tensor) -> float:
    largest = float(exact.abs().max())
    return float((actual - exact).abs().max()) / (largest or 1.0)
