"""Measurements taken in the same way for both libraries."""

import itertools
import time
from typing import NotRequired, TypedDict


class Measurement(TypedDict):
    """The measured steps of one run."""

    start: float
    """Time from the command to the end of the first step (seconds)."""
    seconds: list[float]
    """Duration of each step after the first."""
    losses: list[float]
    """Loss of each step."""
    peak: int
    """Peak resident memory during training (bytes)."""
    lengths: list[list[int]]
    """Token counts of the examples of each step."""
    matmul: float
    """Sustained speed of matrix products in this process (FLOP/s)."""
    estimate: NotRequired[int]
    """Estimate of `tune validate --memory` for the run (bytes)."""
    peak_without_imports: NotRequired[int]
    """Peak memory of the run minus the memory after its imports (bytes)."""


class ModelSizes(TypedDict):
    """The model's widths, which are the sizes of the timed matrix products."""

    embed_dim: int
    ffn_dim: int


def build_measurement(
    command_time: float,
    end_times: list[float],
    *,
    losses: list[float],
    lengths: list[list[int]],
    peak: int,
    matmul: float,
) -> Measurement:
    """Build the measurement of a run.

    Args:
        command_time: Start time of the process (seconds since the epoch).
        end_times: End time of each step (seconds since the epoch).
        losses: See `Measurement`.
        lengths: See `Measurement`.
        peak: See `Measurement`.
        matmul: See `Measurement`.
    """
    return {
        "start": end_times[0] - command_time,
        "seconds": [end - start for start, end in itertools.pairwise(end_times)],
        "losses": losses,
        "peak": peak,
        "lengths": lengths,
        "matmul": matmul,
    }


def matmul_flops(dtype: str, sizes: ModelSizes, rows: int = 1024, n_intervals: int = 6) -> float:
    """Measure the sustained speed of matrix products at a model's feed-forward shapes (FLOP/s).

    The result is the best of six half-second intervals: a single product can be several times faster than many products
    in succession if cores share execution units or clocks, and a shared machine is slow at times.
    """
    import torch

    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    x = torch.randn(rows, sizes["embed_dim"]).to(torch_dtype)
    weight = torch.randn(sizes["ffn_dim"], sizes["embed_dim"]).to(torch_dtype)
    torch.nn.functional.linear(x, weight)
    rates = []
    for _ in range(n_intervals):
        n_products, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.5:
            torch.nn.functional.linear(x, weight)
            n_products += 1
        rates.append(n_products * 2 * rows * weight.numel() / (time.perf_counter() - start))
    return max(rates)
