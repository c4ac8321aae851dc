"""Compare the config engine with OmegaConf, hydra, jsonargparse and draccus: 40 fields, 6 components, 3 overrides.

    pip install -e '.[bench]' && python -m benchmarks.config [--runs N]

Each engine loads YAML, applies the overrides, builds the components and dumps YAML; the CPU time of the first run in a
process and of warm runs is measured. A second table compares programs that build the components from a file with
`python -c pass`. Exits with status 1 if a peer is not installed or torchtune exceeds one of its bounds.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from benchmarks.command_line import benchmark_parser
from benchmarks.config_peers import work
from benchmarks.fresh_process import ROOT, FreshProcess

N_RUNS, N_WARMUP_RUNS = 30, 5
"""Runs in each process, and the number of runs at the start that are not warm yet."""
MAX_FIRST, MAX_WARM = 0.6, 0.5
"""Maximum ratio of torchtune's in-process time to OmegaConf's."""
ENVIRONMENT = {"TUNE_ALLOW": "benchmarks"}
PEERS = ("omegaconf", "hydra", "jsonargparse", "draccus")
OVERRIDES = ("batch_size=16", "optimizer.lr=1e-4", "output_dir=o")

IN_PROCESS = {
    "torchtune": work.torchtune_work,
    "OmegaConf": work.omegaconf_work,
    "jsonargparse": work.jsonargparse_work,
    "draccus": work.draccus_work,
}


class Program(NamedTuple):
    """A program that builds components from a file, in a separate process."""

    run: Callable[[str, Sequence[str]], None]
    """Accepts the folder and the arguments."""
    args: tuple[str, ...] = ()
    bound: float | None = None
    """Maximum ratio of the program's CPU time to that of a bare interpreter."""


PROGRAMS = {
    "torchtune, no overrides": Program(work.torchtune_process, bound=12.0),
    "torchtune, 3 overrides with tyro": Program(work.torchtune_process, OVERRIDES, 25.0),
    "hydra, 3 overrides": Program(work.hydra_process, OVERRIDES),
    "jsonargparse, 3 overrides": Program(work.jsonargparse_process, tuple(f"--{arg}" for arg in OVERRIDES)),
}


class Times(NamedTuple):
    """In-process CPU time of an engine (seconds)."""

    first: float
    warm: float


def cpu_seconds(code: str, args: Sequence[str] = ()) -> float:
    """Return the CPU time of running code in a fresh interpreter (seconds)."""
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    if search_path := os.environ.get("PYTHONPATH"):
        environment["PYTHONPATH"] += os.pathsep + search_path
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code, *args], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def program_seconds(program: Program, folder: str) -> float:
    """Return the CPU time of a program, excluding this benchmark's imports (seconds)."""
    function = program.run
    code = f"import sys; from {function.__module__} import {function.__name__} as run; "
    return cpu_seconds(code + f"run({folder!r}, sys.argv[1:])", program.args)


def time_in_process(folder: str, n_runs: int) -> dict[str, Times]:
    """Return each engine's times; the fresh processes of all engines are interleaved."""
    first: dict[str, list[float]] = {name: [] for name in IN_PROCESS}
    warm: dict[str, list[float]] = {name: [] for name in IN_PROCESS}
    process = FreshProcess(environment=ENVIRONMENT)
    for _ in range(n_runs):
        for name, engine in IN_PROCESS.items():
            seconds = process.call(work.time_work, engine.__name__, folder, N_RUNS).result
            first[name].append(seconds[0])
            warm[name].append(statistics.median(seconds[N_WARMUP_RUNS:]))
    return {name: Times(statistics.median(first[name]), statistics.median(warm[name])) for name in IN_PROCESS}


def time_programs(folder: str, n_runs: int) -> tuple[float, dict[str, float]]:
    """Return the CPU time of a bare interpreter and of each program (seconds); the runs are interleaved."""
    interpreter: list[float] = []
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(n_runs):
        interpreter.append(cpu_seconds("pass"))
        for name, program in PROGRAMS.items():
            seconds[name].append(program_seconds(program, folder))
    return statistics.median(interpreter), {name: statistics.median(runs) for name, runs in seconds.items()}


def compare_in_process(folder: str, n_runs: int) -> bool:
    """Print the in-process times; return whether torchtune is within its bounds."""
    times = time_in_process(folder, n_runs)
    baseline = times["OmegaConf"]
    print("in process                       first           warm")
    for name, (first, warm) in times.items():
        first_ratio, warm_ratio = first / baseline.first, warm / baseline.warm
        print(f"{name:28}{first * 1e3:7.1f} ms {first_ratio:4.2f}x {warm * 1e3:7.1f} ms {warm_ratio:4.2f}x")
    torchtune = times["torchtune"]
    return torchtune.first <= MAX_FIRST * baseline.first and torchtune.warm <= MAX_WARM * baseline.warm


def compare_programs(folder: str, n_runs: int) -> bool:
    """Print the process times; return whether torchtune is within its bounds."""
    interpreter, times = time_programs(folder, n_runs)
    print(f"\nas a process, compared with python -c pass ({interpreter * 1e3:.1f} ms)")
    is_within_bounds = True
    for name, seconds in times.items():
        bound = PROGRAMS[name].bound
        line = f"{name:32}{seconds * 1e3:7.1f} ms {seconds / interpreter:5.1f}x"
        if bound is not None:
            line += f"  (at most {bound:.0f}x)"
            is_within_bounds = is_within_bounds and seconds / interpreter <= bound
        print(line)
    return is_within_bounds


def main() -> int:
    """Measure and print; return 1 if a peer is missing or a bound is exceeded."""
    parser = benchmark_parser("config", __doc__)
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="fresh processes per engine")
    n_runs = parser.parse_args().runs
    missing = [name for name in PEERS if find_spec(name) is None]
    if missing:
        print(f"missing: {', '.join(missing)}; pip install -e '.[bench]'", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        FreshProcess(environment=ENVIRONMENT).call(work.write, folder)
        results = [compare_in_process(folder, n_runs), compare_programs(folder, n_runs)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
