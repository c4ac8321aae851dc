"""How time and memory of a step scale with sequence length, batch size, vocabulary size, ranks and rows.

    python -m benchmarks.growth [--settings NAME ...] [--first N] [--tokenizer FOLDER] [--json FILE]

A LoRA model with four layers of SmolLM2-135M's widths takes steps on random tokens, with a fresh process for each value
of a setting. Times are medians of five steps after two warm-up steps. `grows` is the exponent p of cost ~ value^p for
successive values: 1 is linear, and values below 1 are sublinear. Only attention may exceed 1, because it compares all
pairs of positions. Memory is the peak resident set minus the resident set before the first step. Run nothing else at
the same time. Runs on several ranks read the demo's rows and need the tokenizer that `make demo` writes to models/.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypedDict

from benchmarks.command_line import benchmark_parser
from benchmarks.fresh_process import ROOT, in_fresh_process
from benchmarks.process_memory import peak_bytes, resident_bytes

DEFAULTS = {"length": 256, "batch_size": 4, "vocab_size": 49_152}
"""Tokens per row, rows per batch and vocabulary size; each setting changes one of them."""
N_STEPS, N_UNTIMED = 7, 2
"""Steps per process, and the number of steps at the start that are excluded from the median."""
N_TOKENS = 50
"""Seconds per step on several ranks are normalized to this many tokens per row, because packing varies."""


class Measurement(TypedDict):
    """The cost of one value of a setting."""

    seconds: float
    """Seconds per step, or until the first batch."""
    bytes: int
    """Peak resident memory minus the resident memory before the measurement."""


class MultiRankRun(TypedDict):
    """The settings of a run on one or more ranks."""

    rows: int
    """Rows per step, over all ranks."""
    is_sharded: bool
    """Whether weights are sharded across the ranks instead of replicated."""


VALUES = {
    "length": [128, 256, 512, 1024, 2048],
    "batch_size": [1, 2, 4, 8, 16],
    "vocab_size": [32_000, 64_000, 128_000],
    "rows": [1_000, 10_000, 100_000, 1_000_000],
    "ranks": [1, 2],
    "ranks, more rows": [1, 2],
    "ranks, replicated": [1, 2],
}
MULTI_RANK_RUNS: dict[str, MultiRankRun] = {
    "ranks": {"rows": 8, "is_sharded": True},
    "ranks, more rows": {"rows": 32, "is_sharded": True},
    "ranks, replicated": {"rows": 8, "is_sharded": False},
}
TITLES = {
    "rows": "rows, until the first batch",
    "ranks": "ranks with one thread each, sharded weights, 8 rows per step",
    "ranks, more rows": "ranks with one thread each, sharded weights, 32 rows per step",
    "ranks, replicated": "ranks with one thread each, replicated weights, 8 rows per step",
}


def main() -> None:
    """Measure each setting, one at a time."""
    arguments = parse_arguments()
    measurements: dict[str, dict[int, Measurement]] = {}
    for setting in arguments.settings:
        print(TITLES.get(setting, setting))
        smaller = 0
        by_value = measurements.setdefault(setting, {})
        for value in VALUES[setting][: arguments.first]:
            by_value[value] = measure(setting, value, arguments.tokenizer)
            show(value, by_value[value], smaller, by_value.get(smaller))
            smaller = value
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(measurements, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = benchmark_parser("growth", __doc__)
    parser.add_argument("--settings", nargs="+", choices=list(VALUES), default=list(VALUES), metavar="NAME")
    parser.add_argument(
        "--first", type=int, metavar="N", help="measure only the first N values of each setting"
    )
    parser.add_argument("--tokenizer", default=str(ROOT / "models/SmolLM2-135M-Instruct"), metavar="FOLDER")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file")
    return parser.parse_args()


def measure(setting: str, value: int, tokenizer: str) -> Measurement:
    """Measure one value of a setting in a fresh process."""
    if setting in MULTI_RANK_RUNS:
        return train_on_ranks(value, tokenizer, **MULTI_RANK_RUNS[setting])
    if setting == "rows":
        return in_fresh_process(build_first_batch, value)
    return in_fresh_process(take_steps, **{**DEFAULTS, setting: value})


def take_steps(length: int, batch_size: int, vocab_size: int) -> Measurement:
    """Take LoRA steps on random tokens."""
    import torch
    from torch.optim import AdamW

    from torchtune import training
    from torchtune.config import lazy
    from torchtune.data import Example, collate
    from torchtune.distributed import World
    from torchtune.models.smollm2 import smollm2
    from torchtune.modules import LinearCrossEntropy
    from torchtune.placement import Placement

    torch.manual_seed(0)
    world = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=0)
    with torch.device("meta"):
        model = smollm2(vocab_size=vocab_size, num_layers=4, max_seq_len=4096)
    training.Lora(targets=["q_proj", "v_proj"], rank=8).add_to(model)
    Placement().place(model, world, None, dtype="fp32")
    scorer = training.NextToken(LinearCrossEntropy(reduction="sum"))
    optimizer = training.build_optimizer(lazy(AdamW, lr=1e-4, fused=True), model)
    seconds, before = [], resident_bytes()
    for _ in range(N_STEPS):
        rows = torch.randint(vocab_size, (batch_size, length + 1)).tolist()
        batch = collate([Example(row, row) for row in rows], pad_id=0)
        start = time.perf_counter()
        sums = training.StepSums([batch], world)
        torch.autograd.backward(sums.add(scorer(model, batch)))
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[N_UNTIMED:]), "bytes": peak_bytes() - before}


def build_first_batch(n_rows: int) -> Measurement:
    """Time the first packed batch of synthetic rows; memory includes the next fifty batches."""
    from torch.utils.data import Dataset

    from torchtune.data import Batches, Example

    class SyntheticRows(Dataset[Example]):
        def __len__(self) -> int:
            return n_rows

        def __getitem__(self, i: int) -> Example:
            tokens = [1 + (i * 7 + j) % 1000 for j in range(20 + i % 60)]
            return Example(tokens, [-100, *tokens[1:]])

    before, start = resident_bytes(), time.perf_counter()
    batches = Batches(SyntheticRows(), 4, shuffle=True, seed=1, pad_id=0, packed_length=512)
    next(batches)
    seconds = time.perf_counter() - start
    for _ in range(50):
        next(batches)
    return {"seconds": seconds, "bytes": peak_bytes() - before}


def train_on_ranks(n_ranks: int, tokenizer: str, *, rows: int, is_sharded: bool) -> Measurement:
    """Fine-tune a randomly initialized model on the demo's rows.

    Args:
        n_ranks: Number of ranks, with one thread each.
        tokenizer: The tokenizer's folder.
        rows: See `MultiRankRun`.
        is_sharded: See `MultiRankRun`.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torchtune.cli"]
        command += ["--nproc_per_node", str(n_ranks)] if n_ranks > 1 else []
        command += ["full_finetune", "--config", "smollm2_135m_full", "--override"]
        command += ["model=torchtune.models.smollm2.smollm2", "model.num_layers=4", "model.max_seq_len=2048"]
        command += ["model_directory=null", f"tokenizer_directory={Path(tokenizer).resolve()}"]
        command += [f"output_dir={folder}/run", "validation=null", "max_steps=10", "loading.workers=0"]
        command += [f"batch_size={rows // n_ranks}", f"enable_fsdp={str(is_sharded).lower()}", "device=cpu"]
        command += ["checkpoints.every_n_steps=null", "checkpoints.at_epoch_ends=false"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        completed = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if completed.returncode:
            sys.exit(f"the run failed:\n{completed.stderr[-3000:]}")
        lines = Path(folder, "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    speed = statistics.median(step["tokens_per_second"] for step in steps[3:])
    return {"seconds": N_TOKENS * rows / speed, "bytes": steps[-1]["peak_memory_bytes"]}


def show(value: int, measurement: Measurement, smaller: int, smaller_measurement: Measurement | None) -> None:
    """Print the measurement of a value, and the growth from the next smaller value if one was measured."""
    line = f"  {value:>9,}  {measurement['seconds']:8.3f} s  {measurement['bytes'] / 2**20:7.0f} MiB"
    if smaller_measurement is not None:
        seconds = exponent(measurement["seconds"], smaller_measurement["seconds"], value / smaller)
        memory = exponent(measurement["bytes"], smaller_measurement["bytes"], value / smaller)
        line += f"   grows {seconds} and {memory}"
    print(line, flush=True)


def exponent(larger: float, smaller: float, factor: float) -> str:
    """Return p in `larger = smaller * factor^p` as text, or a dash if it is undefined."""
    if larger <= 0 or smaller <= 0:
        return "    -"
    return f"{math.log(larger / smaller) / math.log(factor):5.2f}"


if __name__ == "__main__":
    main()
