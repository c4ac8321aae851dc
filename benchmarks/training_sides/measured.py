"""What both sides measure in the same way."""

import itertools
import json
import os
import resource
import sys
import time
from typing import Any


def order() -> dict[str, Any]:
    """Read what the benchmark asks of this process: its one argument, JSON."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def peak_bytes() -> int:
    """Return the most that this process held resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else peak * 1024


def matmul_flops(dtype: str, embed_dim: int, ffn_dim: int, rows: int = 1024) -> float:
    """Measure the best matrix product at the shapes of a model's feed-forward, in FLOP/s."""
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    x, w = torch.randn(rows, embed_dim).to(kind), torch.randn(ffn_dim, embed_dim).to(kind)
    best = 0.0
    for _ in range(60):
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        best = max(best, 2 * rows * embed_dim * ffn_dim / (time.perf_counter() - start))
    return best


def report(
    times: list[float], losses: list[float], peak: int, given: dict[str, Any], lengths: list[list[int]]
) -> None:
    """Print what was found, as the last line.

    Args:
        times: When each step ended, seconds since the epoch.
        losses: Of each step.
        peak: Resident bytes at most, while it trained.
        given: What this process was asked.
        lengths: How many tokens of each example a step read; empty where the benchmark knows them.
    """
    found = {
        "start": times[0] - given["begun"],
        "seconds": [b - a for a, b in itertools.pairwise(times)],
        "losses": losses,
        "peak": peak,
        "lengths": lengths,
        "matmul": matmul_flops(given["dtype"], given["embed_dim"], given["ffn_dim"]),
    }
    print(json.dumps(found))
