"""What both sides measure in the same way."""

import itertools
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def order() -> dict[str, Any]:
    """Read what the benchmark asks of this process: its one argument, JSON."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def peak_bytes() -> int:
    """Return the most that this process held resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else peak * 1024


def resident_bytes() -> int:
    """Return what this process holds resident now; where the system does not say, what it held at most."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return peak_bytes()
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def matmul_flops(dtype: str, embed_dim: int, ffn_dim: int, rows: int = 1024, windows: int = 6) -> float:
    """Measure what matrix products at the shapes of a model's feed-forward sustain, in FLOP/s.

    The best half second of three: a single product may be several times as fast as they are one after the other, where
    cores share units or clocks, and a machine that is shared has slow seconds.
    """
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    x, w = torch.randn(rows, embed_dim).to(kind), torch.randn(ffn_dim, embed_dim).to(kind)
    torch.nn.functional.linear(x, w)
    rates = []
    for _ in range(windows):
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.5:
            torch.nn.functional.linear(x, w)
            done += 1
        rates.append(done * 2 * rows * embed_dim * ffn_dim / (time.perf_counter() - start))
    return max(rates)


def report(
    times: list[float],
    losses: list[float],
    peak: int,
    given: dict[str, Any],
    lengths: list[list[int]],
    **more: float,
) -> None:
    """Print what was found, as the last line.

    Args:
        times: When each step ended, seconds since the epoch.
        losses: Of each step.
        peak: Resident bytes at most, while it trained.
        given: What this process was asked.
        lengths: How many tokens of each example a step read; empty where the benchmark knows them.
        more: What else was found.
    """
    found = {
        **more,
        "start": times[0] - given["begun"],
        "seconds": [b - a for a, b in itertools.pairwise(times)],
        "losses": losses,
        "peak": peak,
        "lengths": lengths,
        "matmul": matmul_flops(given["dtype"], given["embed_dim"], given["ffn_dim"]),
    }
    print(json.dumps(found))
