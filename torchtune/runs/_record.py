"""The record of a run's environment: command, versions, threads, commit and machine."""

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from torchtune.config.model import current_trust


def record(command: list[str]) -> dict[str, Any]:
    """Return the record of a run that starts now: command, versions, threads, commit, machine and start time."""
    trust, torch = current_trust(), sys.modules.get("torch")
    return {
        "command": command,
        "folder": str(Path.cwd()),
        "allow": sorted(trust.packages),
        "trusted_folders": list(trust.folders),
        "versions": versions(),
        "threads": torch.get_num_threads() if torch else None,
        "git": git_state(),
        "host": platform.node(),
        "gpus": gpus(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "started": timestamp(),
    }


def gpus() -> list[str]:
    """Return the name and driver version of each NVIDIA GPU, without creating a GPU context."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 -- NVIDIA's tool
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in run.stdout.splitlines() if line.strip()]


def versions() -> dict[str, str]:
    """Return the versions of Python, torchtune and the imported libraries that affect numerical results."""
    names = ("torchtune", "torch", "numpy", "datasets", "tokenizers", "sentencepiece")
    loaded = {n: getattr(sys.modules[n], "__version__", "") for n in names if n in sys.modules}
    return {"python": platform.python_version(), **{n: str(v) for n, v in loaded.items() if v}}


def git_state() -> dict[str, Any] | None:
    """Return the commit of torchtune's checkout, and whether it is dirty; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 -- git
    except (OSError, subprocess.SubprocessError):
        return None
    lines = run.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def timestamp() -> str:
    """Return the current time in the format of records."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
