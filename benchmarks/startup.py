"""CPU time of the most frequently used `tune` commands, compared with `python -c pass`.

    python -m benchmarks.startup [--runs N]

Prints the median CPU time (user and system) of each command and its ratio to that of `python -c pass`. Exits with
status 1 if a ratio exceeds its bound.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.command_line import benchmark_parser
from benchmarks.fresh_process import ROOT

BARE = "python -c pass"
COMPLETION = "tune lora_finetune --config smollm2_135m_lora optimizer."
CALLS = {
    "tune --help": (["--help"], 5.0),
    "tune ls": (["ls"], 5.0),
    "tune cp": (["cp", "smollm2_135m_lora", "copy.yaml", "--force"], 5.0),
    "tune __complete": (["__complete", "fish", COMPLETION], 8.0),
    "tune diff": (["diff", "smollm2_135m_lora", "smollm2_135m_full"], 8.0),
}
"""The arguments of each `tune` command, and the maximum ratio of its CPU time to the bare interpreter's."""


def cpu_seconds(call: list[str], folder: str) -> float:
    """Return the CPU time of a command and its children (seconds)."""
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, cwd=folder, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def time_calls(n_runs: int) -> dict[str, float]:
    """Return the median CPU time of each command (seconds)."""
    script = shutil.which("tune", path=str(Path(sys.executable).parent))
    tune = [script] if script else [sys.executable, "-m", "torchtune.cli"]
    calls = {BARE: [sys.executable, "-c", "pass"]}
    calls |= {name: [*tune, *args] for name, (args, _) in CALLS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(n_runs):  # interleaved, so that other load on the machine affects all of them
            for name, call in calls.items():
                seconds[name].append(cpu_seconds(call, folder))
    return {name: statistics.median(command_seconds) for name, command_seconds in seconds.items()}


def main() -> int:
    """Measure and print; return 1 if a bound is exceeded."""
    parser = benchmark_parser("startup", __doc__)
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="runs per command")
    seconds = time_calls(parser.parse_args().runs)
    interpreter = seconds.pop(BARE)
    print(f"{BARE:16}{interpreter * 1e3:7.1f} ms {1:6.1f}x")
    n_exceeded = 0
    for name, command_seconds in seconds.items():
        ratio, (_, bound) = command_seconds / interpreter, CALLS[name]
        n_exceeded += ratio > bound
        print(f"{name:16}{command_seconds * 1e3:7.1f} ms {ratio:6.1f}x  (at most {bound:.0f}x)")
    return int(n_exceeded > 0)


if __name__ == "__main__":
    sys.exit(main())
