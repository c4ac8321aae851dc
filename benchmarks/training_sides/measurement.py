"""What both sides measure in the same way."""

import itertools
import time
from typing import NotRequired, TypedDict


class Measurement(TypedDict):
    """The steps of one side."""

    start: float
    """From the command to the end of the first step (seconds)."""
    seconds: list[float]
    """Of each step after the first."""
    losses: list[float]
    """Of each step."""
    peak: int
    """Resident memory at most while it trained (bytes)."""
    lengths: list[list[int]]
    """Tokens of each example that a step read, step by step."""
    matmul: float
    """What matrix products sustain in this process (FLOP/s)."""
    planned: NotRequired[int]
    """What `tune validate --memory` says of the run (bytes)."""
    beyond_imports: NotRequired[int]
    """What the run took beyond its imports (bytes)."""


class ModelSizes(TypedDict):
    """Widths of the model, at which matrix products are timed."""

    embed_dim: int
    ffn_dim: int


def measurement(
    command_time: float,
    end_times: list[float],
    *,
    losses: list[float],
    lengths: list[list[int]],
    peak: int,
    matmul: float,
) -> Measurement:
    """Return the measurement of steps.

    Args:
        command_time: When the process was started (seconds since the epoch).
        end_times: When each step ended (seconds since the epoch).
        losses: As in `Measurement`.
        lengths: As in `Measurement`.
        peak: As in `Measurement`.
        matmul: As in `Measurement`.
    """
    return {
        "start": end_times[0] - command_time,
        "seconds": [end - start for start, end in itertools.pairwise(end_times)],
        "losses": losses,
        "peak": peak,
        "lengths": lengths,
        "matmul": matmul,
    }


def matmul_flops(dtype: str, sizes: ModelSizes, rows: int = 1024, windows: int = 6) -> float:
    """Measure what matrix products at the shapes of a model's feed-forward sustain, in FLOP/s.

    The best half second of three seconds: a single product may be several times as fast as many in a row, where cores
    share units or clocks, and a machine that is shared has slow seconds.
    """
    import torch

    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    x = torch.randn(rows, sizes["embed_dim"]).to(torch_dtype)
    weight = torch.randn(sizes["ffn_dim"], sizes["embed_dim"]).to(torch_dtype)
    torch.nn.functional.linear(x, weight)
    rates = []
    for _ in range(windows):
        n_products, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.5:
            torch.nn.functional.linear(x, weight)
            n_products += 1
        rates.append(n_products * 2 * rows * weight.numel() / (time.perf_counter() - start))
    return max(rates)
