"""CPU time of the calls that people make all day, against a bare `python -c pass`.

    python benchmarks/startup.py

Prints the median CPU time, user and system together, and its ratio. The bounds are those of design.md.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 15
TUNE = [sys.executable, "-m", "torchtune.cli"]


def cpu_seconds(call: list[str], folder: str) -> float:
    """Return the CPU time of a call and its children (seconds)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> int:
    """Measure, print, and fail where a bound is broken."""
    script = shutil.which("tune", path=str(Path(sys.executable).parent))
    tune = [script] if script else TUNE
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            "python -c pass": ([sys.executable, "-c", "pass"], None),
            "tune --help": ([*tune, "--help"], 5.0),
            "tune ls": ([*tune, "ls"], 5.0),
            "tune cp": ([*tune, "cp", "smollm2_135m_lora", "copy.yaml", "--force"], 5.0),
            "tune __complete": (
                [*tune, "__complete", "fish", "tune lora_finetune --config smollm2_135m_lora optimizer."],
                8.0,
            ),
            "tune diff": ([*tune, "diff", "smollm2_135m_lora", "smollm2_135m_full"], 8.0),
        }
        # Interleaved, so that what else the machine does falls on all alike.
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(RUNS):
            for name, (call, _bound) in calls.items():
                times[name].append(cpu_seconds(call, folder))
    bare = statistics.median(times["python -c pass"])
    broken = 0
    for name, (_call, bound) in calls.items():
        seconds = statistics.median(times[name])
        ratio = seconds / bare
        broken += bound is not None and ratio > bound
        print(
            f"{name:16}{seconds * 1e3:7.1f} ms {ratio:6.1f}x" + (f"  (at most {bound:.0f}x)" if bound else "")
        )
    return int(broken > 0)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
