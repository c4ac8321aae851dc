"""Comparing an optimizer step of several ranks with one rank's."""

from typing import Any

import torch

from tests.tolerance import FLOAT64, assert_near, bound, distance, norm_bound


def assert_same_step(ours: dict[str, Any], alone: dict[str, Any]) -> None:
    """Compare steps in float64, which differ by the order of sums."""
    for kind in ("loss", "norm"):
        assert_near(torch.tensor(ours[kind]), torch.tensor(alone[kind]), FLOAT64)
    for kind in ("gradients", "parameters"):
        assert_near(ours[kind], alone[kind], FLOAT64)


def assert_same_step_in_bf16(ours: dict[str, Any], alone: dict[str, Any], lr: float = 0.01) -> None:
    """Compare steps in bfloat16: each batch's gradient is rounded, and several ranks have other batches than one.

    The first step of AdamW moves a parameter by lr g / (|g| + 1e-8): by lr, with the sign of its gradient g.

    Args:
        ours: Of several ranks.
        alone: Of one.
        lr: The learning rate.
    """
    one_rounding = bound(torch.bfloat16, 1)
    for kind in ("loss", "norm"):
        assert_near(torch.tensor(ours[kind]), torch.tensor(alone[kind]), one_rounding)
    assert distance(ours["gradients"], alone["gradients"]) < norm_bound(torch.bfloat16, 2)
    n_same = n = 0
    for name, gradient in alone["gradients"].items():
        other = ours["gradients"][name]
        same = (gradient == other) | ((gradient.sign() == other.sign()) & (gradient.abs() > 1e-6))
        moved = ours["parameters"][name] - alone["parameters"][name]
        # 1e-8 is a hundredth of the least of these gradients, so steps are lr to within a hundredth.
        assert moved[same].abs().max() <= 0.01 * lr, name
        n_same, n = n_same + int(same.sum()), n + same.numel()
    assert n_same > 0.8 * n, "most gradients are much larger than their roundings"
