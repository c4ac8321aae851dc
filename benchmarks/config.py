"""The config engine beside its peers: the same 40 fields, 6 components and 3 overrides.

    pip install '.[bench]' && python benchmarks/config.py

In process, first and warm: load YAML, apply three overrides, build the six components, dump YAML. As a process, against
`python -c pass`: the whole way from a file to built components. Prints medians and ratios; exits 1 without the peers
or where a bound of ours is broken.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
FRESH_RUNS, WARM_RUNS = 7, 30

TIMED = """
import json, sys, time
sys.path.insert(0, {here!r})
from config_peers.work import {engine} as engine
work = engine({file!r})
times = []
for _ in range({runs}):
    start = time.process_time()
    work()
    times.append(time.process_time() - start)
print(json.dumps(times))
"""

PROCESS = """
import sys
sys.path.insert(0, {here!r})
from config_peers.work import {engine} as run
run({file!r}, sys.argv[1:])
"""

IN_PROCESS = {
    "torchtune": "torchtune_work",
    "OmegaConf": "omegaconf_work",
    "jsonargparse": "jsonargparse_work",
    "draccus": "draccus_work",
}
AS_PROCESS = {
    "torchtune, no overrides": ("torchtune_process", (), 12.0),
    "torchtune, 3 overrides by tyro": (
        "torchtune_process",
        ("batch_size=16", "optimizer.lr=1e-4", "output_dir=o"),
        25.0,
    ),
    "hydra, 3 overrides": ("hydra_process", ("batch_size=16", "optimizer.lr=1e-4", "output_dir=o"), None),
    "jsonargparse, 3 overrides": (
        "jsonargparse_process",
        ("--batch_size=16", "--optimizer.lr=1e-4", "--output_dir=o"),
        None,
    ),
}


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh process."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
        "TUNE_ALLOW": "config_peers",
    }
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=True
    )


def cpu_of(code: str, *words: str) -> float:
    """Return the CPU time of a fresh process (seconds)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python(code, *words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def in_process(file: str) -> dict[str, tuple[float, float]]:
    """Return each engine's first and warm time (seconds), fresh processes interleaved."""
    first: dict[str, list[float]] = {name: [] for name in IN_PROCESS}
    warm: dict[str, list[float]] = {name: [] for name in IN_PROCESS}
    for _ in range(FRESH_RUNS):
        for name, engine in IN_PROCESS.items():
            code = TIMED.format(here=str(HERE), engine=engine, file=file, runs=WARM_RUNS)
            times = json.loads(python(code).stdout.splitlines()[-1])
            first[name].append(times[0])
            warm[name].append(statistics.median(times[5:]))
    return {name: (statistics.median(first[name]), statistics.median(warm[name])) for name in IN_PROCESS}


def as_process(file: str) -> tuple[float, dict[str, float]]:
    """Return the CPU time of a bare interpreter and of each engine's process (seconds), interleaved."""
    bare: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in AS_PROCESS}
    for _ in range(FRESH_RUNS):
        bare.append(cpu_of("pass"))
        for name, (engine, words, _bound) in AS_PROCESS.items():
            times[name].append(cpu_of(PROCESS.format(here=str(HERE), engine=engine, file=file), *words))
    return statistics.median(bare), {name: statistics.median(t) for name, t in times.items()}


def main() -> int:
    """Measure and print; return 1 where a peer is missing or a bound is broken."""
    missing = [name for name in ("omegaconf", "hydra", "jsonargparse", "draccus") if find_spec(name) is None]
    if missing:
        print(f"missing: {', '.join(missing)}; pip install '.[bench]'", file=sys.stderr)
        return 1
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        python(
            f"import sys; sys.path.insert(0, {str(HERE)!r}); from config_peers.work import write; write({folder!r})"
        )
        found = in_process(folder)
        theirs = found["OmegaConf"]
        print("in process                       first           warm")
        for name, (first, warm) in found.items():
            a, b = first / theirs[0], warm / theirs[1]
            if name == "torchtune":
                broken += (a > 0.6) + (b > 0.5)
            print(f"{name:28}{first * 1e3:7.1f} ms {a:4.2f}x {warm * 1e3:7.1f} ms {b:4.2f}x")
        bare, processes = as_process(folder)
        print(f"\nas a process, against python -c pass ({bare * 1e3:.1f} ms)")
        for name, seconds in processes.items():
            bound = AS_PROCESS[name][2]
            broken += bound is not None and seconds / bare > bound
            print(
                f"{name:32}{seconds * 1e3:7.1f} ms {seconds / bare:5.1f}x"
                + (f"  (at most {bound:.0f}x)" if bound else "")
            )
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
