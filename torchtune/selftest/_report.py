"""The report of a self-test: a table for the terminal, and JSON to send back."""

import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from attrs import asdict

from torchtune.runs import gpus
from torchtune.selftest._check import Result


def table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of a table: a line for each part, and for each check that is not ok."""
    width = max(len(result.part) for result in results)
    yield f"{'part':{width}}  {'ok':>4} {'wrong':>6} {'not available':>14} {'error / allowed':>16} {'seconds':>8}"
    for part in dict.fromkeys(result.part for result in results):
        selected = [result for result in results if result.part == part]
        counts = Counter(result.status for result in selected)
        worst = max((r.error / r.allowed for r in selected if r.allowed), default=0.0)
        seconds = sum(result.seconds for result in selected)
        numbers = (
            f"{counts['ok']:4} {counts['wrong']:6} {counts['not available']:14} {worst:16.2f} {seconds:8.1f}"
        )
        yield f"{part:{width}}  {numbers}"
        for result in selected:
            if result.detail:
                yield f"  {result.status}: {result.name}: {result.detail}"


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine: versions, processor and GPU."""
    return {
        "device": str(device),
        "gpus": gpus(),
        "capability": list(torch.cuda.get_device_capability(device)) if device.type == "cuda" else None,
        "processor": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def report(results: Sequence[Result], device: torch.device) -> dict[str, Any]:
    """Return the report as JSON-compatible values."""
    counts = Counter(result.status for result in results)
    return {
        "machine": machine(device),
        "ok": counts["ok"],
        "wrong": counts["wrong"],
        "not_available": counts["not available"],
        "results": [asdict(result) for result in results],
    }
