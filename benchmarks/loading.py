"""Seconds and peak memory of loading a checkpoint, beside transformers.

    python benchmarks/loading.py [FOLDER ...]

Loads each Hugging Face folder, and a synthetic checkpoint of 3 GB in shards that it writes first, in fresh processes,
ours and transformers' in turn, and touches every weight once. Peak memory is the process's resident set above what it
had after its imports, as a share of the weights' size. The bounds are those of the project: no slower, at most 1.15x.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 3
MOST_MEMORY = 1.15

LOAD = """
import json, re, sys, time
def status(key):  # of this program alone; getrusage counts the one that started it
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
folder, who = sys.argv[1:]
import torch
if who == "ours":
    from torchtune.formats import hf_decoder, load_hf_weights
else:
    from transformers import AutoModelForCausalLM
before = status("VmRSS")
start = time.perf_counter()
if who == "ours":
    with torch.device("meta"):
        model = hf_decoder(folder)
    load_hf_weights(model, folder)
else:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
with torch.no_grad():
    # In parts: a whole embedding in float64 would be most of what is measured.
    total = sum(float(rows.sum(dtype=torch.float64)) for p in model.parameters() for rows in p.split(256))
seconds = time.perf_counter() - start
peak = status("VmHWM") - before
size = sum(p.nbytes for p in model.parameters())
print(json.dumps({"seconds": seconds, "peak": peak, "size": size, "total": total}))
"""


def synthetic(folder: Path) -> Path:
    """Write a Llama of 3 GB in fp32, in shards of at most 1 GB."""
    import torch
    from attrs import evolve

    from torchtune.formats import save_hf_folder
    from torchtune.models.llama2 import LLAMA2_7B
    from torchtune.modules import Decoder

    torch.manual_seed(0)
    model = Decoder(evolve(LLAMA2_7B, num_layers=3, vocab_size=16_000))
    save_hf_folder(model, folder, shard_bytes=10**9)
    return folder


def load(folder: Path, who: str) -> dict[str, float]:
    """Load a folder in a process of its own."""
    root = str(Path(__file__).resolve().parents[1])
    code = f"import sys; sys.path.insert(0, {root!r}); exec({LOAD!r})"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), who], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(folders: list[str]) -> int:
    """Measure, print, and fail where a bound is broken."""
    broken = 0
    with tempfile.TemporaryDirectory() as scratch:
        for folder in [*map(Path, folders), synthetic(Path(scratch) / "synthetic")]:
            runs: dict[str, list[dict[str, float]]] = {"ours": [], "transformers": []}
            for _ in range(RUNS):
                for who, found in runs.items():
                    found.append(load(folder, who))
            size = runs["ours"][0]["size"]
            print(f"{folder.name}, {size / 1e9:.2f} GB of weights")
            seconds = {who: statistics.median(r["seconds"] for r in found) for who, found in runs.items()}
            shares = {who: max(r["peak"] / r["size"] for r in found) for who, found in runs.items()}
            for who in runs:
                ratio = seconds[who] / seconds["transformers"]
                print(
                    f"  {who:14}{seconds[who]:7.2f} s {ratio:6.2f}x   peak {shares[who]:5.2f}x of the weights"
                )
            broken += seconds["ours"] > seconds["transformers"] or shares["ours"] > MOST_MEMORY
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
