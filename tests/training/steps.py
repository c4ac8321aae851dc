"""Compare an optimizer step on multiple ranks with the same step on one rank."""

from typing import Any

import torch

from tests.tolerance import FLOAT64, assert_near, bound, distance, norm_bound


def assert_same_step(actual: dict[str, Any], single: dict[str, Any]) -> None:
    """Compare float64 steps, which differ only in the order of summation."""
    for kind in ("loss", "norm"):
        assert_near(torch.tensor(actual[kind]), torch.tensor(single[kind]), FLOAT64)
    for kind in ("gradients", "parameters"):
        assert_near(actual[kind], single[kind], FLOAT64)


def assert_same_step_in_bf16(actual: dict[str, Any], single: dict[str, Any], lr: float = 0.01) -> None:
    """Compare bfloat16 steps.

    Gradients are rounded once per batch, and the batches depend on the number of ranks. The first step of AdamW moves
    a parameter with gradient g by lr g / (|g| + 1e-8), which is approximately lr with the sign of g.

    Args:
        actual: The step on multiple ranks.
        single: The step on one rank.
        lr: The learning rate.
    """
    one_rounding = bound(torch.bfloat16, 1)
    for kind in ("loss", "norm"):
        assert_near(torch.tensor(actual[kind]), torch.tensor(single[kind]), one_rounding)
    assert distance(actual["gradients"], single["gradients"]) < norm_bound(torch.bfloat16, 2)
    n_same = n = 0
    for name, gradient in single["gradients"].items():
        other = actual["gradients"][name]
        same = (gradient == other) | ((gradient.sign() == other.sign()) & (gradient.abs() > 1e-6))
        moved = actual["parameters"][name] - single["parameters"][name]
        # These gradients are at least 100 times 1e-8, so each parameter moves by lr up to an error of 1%.
        assert moved[same].abs().max() <= 0.01 * lr, name
        n_same, n = n_same + int(same.sum()), n + same.numel()
    assert n_same > 0.8 * n, (
        "most gradients must have the same sign, because they are much larger than their rounding errors"
    )
