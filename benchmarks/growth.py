"""How the time and the memory of a step grow with the sequence, the batch, the vocabulary, the ranks and the rows.

    python benchmarks/growth.py [--json FILE]

A model of four layers of SmolLM2-135M's widths with LoRA takes steps on random tokens, each setting in a fresh process;
medians of five steps behind two. `grows` is the exponent p of setting^p between each line and the one before: 1 is
proportional, below 1 less than that; attention alone may be above, as it compares all pairs of positions. Memory is the
process's resident set at its largest above what it had before its first step. Nothing else may run beside it.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

STEP = """
import json, resource, statistics, sys, time
given = json.loads(sys.argv[1])
import torch
from torchtune.data import Example, collate
from torchtune.models.smollm2 import smollm2
from torchtune.modules import LinearCrossEntropy
from torchtune.distributed import World
from torchtune.training import Lora, build_optimizer, place, step_loss
from torchtune.config import lazy
from torch.optim import AdamW
torch.manual_seed(0)
with torch.device("meta"):
    model = smollm2(vocab_size=given["vocabulary"], num_layers=4, embed_dim=576, num_heads=9, num_kv_heads=3,
        ffn_dim=1536, max_seq_len=4096)
Lora(targets=["q_proj", "v_proj"], rank=8).add_to(model)
world = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=0)
Placement().place(model, world, None, dtype="fp32")
loss_fn = step_loss(LinearCrossEntropy(), "fp32")
optimizer = build_optimizer(lazy(AdamW, lr=1e-4, fused=True), [p for p in model.parameters() if p.requires_grad])
shape = given["batch"], given["length"]
times, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(7):
    tokens = torch.randint(given["vocabulary"], (shape[0], shape[1] + 1)).tolist()
    batch = collate([Example(row, row) for row in tokens], 0)
    start = time.perf_counter()
    torch.autograd.backward(loss_fn(model, batch) / batch.n_targets)
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": statistics.median(times[2:]), "bytes": peak * 1024}))
"""

ROWS = """
import json, resource, sys, time
given = json.loads(sys.argv[1])
from torchtune.data import Batches, Example
class Made:
    def __len__(self): return given["rows"]
    def __getitem__(self, i):
        tokens = [1 + (i * 7 + j) % 1000 for j in range(20 + i % 60)]
        return Example(tokens, [-100, *tokens[1:]])
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
batches = Batches(Made(), 4, shuffle=True, seed=1, pad_id=0, packed_length=512)
next(batches)
first = time.perf_counter() - start
for _ in range(50):
    next(batches)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": first, "bytes": peak * 1024}))
"""

PLAIN = {"length": 256, "batch": 4, "vocabulary": 49152}
GROWTH: dict[str, list[int]] = {
    "length": [128, 256, 512, 1024, 2048],
    "batch": [1, 2, 4, 8, 16],
    "vocabulary": [32_000, 64_000, 128_000],
    "rows": [1_000, 10_000, 100_000, 1_000_000],
    "ranks": [1, 2],
    "ranks, more rows": [1, 2],
    "ranks, weights copied": [1, 2],
}
RANKED = {"ranks": (8, True), "ranks, more rows": (32, True), "ranks, weights copied": (8, False)}
"""Rows a step, and whether weights are split over the ranks or each rank has them whole."""
TITLES = {
    "rows": "rows, to the first batch",
    "ranks": "ranks of one thread each, which split weights, 8 rows a step",
    "ranks, more rows": "the same, 32 rows a step",
    "ranks, weights copied": "ranks of one thread each with all weights, 8 rows a step",
}


def main() -> None:
    """Grow one thing at a time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json")
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for what, values in GROWTH.items():
        print(TITLES.get(what, what))
        for value in values:
            if what in RANKED:
                line = ranks(value, *RANKED[what])
            elif what == "rows":
                line = measured(ROWS, {"rows": value})
            else:
                line = measured(STEP, {**PLAIN, what: value})
            line["at"] = value
            show(line, found.setdefault(what, []))
            found[what].append(line)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measured(program: str, given: dict[str, int]) -> dict[str, Any]:
    """Run a program in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(given)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"the benchmark failed:\n{done.stderr[-2000:]}")
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def ranks(n: int, rows: int, splits: bool) -> dict[str, Any]:
    """Run the demo's rows through a random model on n ranks; so many rows a step, and the seconds of 50 tokens each."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["model=torchtune.models.smollm2.smollm2", "model.num_layers=4", "model.vocab_size=49152"]
        words += ["model.embed_dim=576", "model.num_heads=9", "model.num_kv_heads=3", "model.ffn_dim=1536"]
        words += ["model.max_seq_len=2048", "model_directory=null", f"output_dir={folder}/run"]
        words += [f"tokenizer_directory={ROOT / 'models/SmolLM2-135M-Instruct'}", "validation=null"]
        words += ["max_steps=10", f"batch_size={rows // n}", f"enable_fsdp={str(splits).lower()}"]
        words += ["device=cpu", "loading.workers=0"]
        words += ["checkpoints.every_n_steps=null", "checkpoints.at_epoch_ends=false"]
        launch = ["--nproc_per_node", str(n)] if n > 1 else []
        call = [
            sys.executable,
            "-m",
            "torchtune.cli",
            *launch,
            "full_finetune",
            "--config",
            "smollm2_135m_full",
        ]
        done = subprocess.run(
            [*call, "--override", *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"the benchmark failed:\n{done.stderr[-2000:]}")
        lines = [json.loads(line) for line in Path(folder, "run/metrics.jsonl").read_text().splitlines()]
    speed = statistics.median(line["tokens_per_second"] for line in lines[3:])
    return {"seconds": 50 * rows / speed, "bytes": lines[-1]["peak_memory_bytes"]}


def show(line: dict[str, Any], before: list[dict[str, Any]]) -> None:
    """Print a line, with its growth since the one before."""
    grows = ""
    if before:
        by = math.log(line["at"] / before[-1]["at"])
        powers = [math.log(line[n] / before[-1][n]) / by for n in ("seconds", "bytes") if before[-1][n] > 0]
        grows = "   grows " + " and ".join(f"{power:5.2f}" for power in powers)
    print(
        f"  {line['at']:>9,}  {line['seconds']:8.3f} s  {line['bytes'] / 2**20:7.0f} MiB{grows}", flush=True
    )


if __name__ == "__main__":
    main()
