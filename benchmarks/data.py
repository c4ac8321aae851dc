"""Rows and tokens a second from a .jsonl file to batches, beside TRL's preparation of the same rows.

    python benchmarks/data.py TOKENIZER_FOLDER [ROWS ...]

Writes synthetic rows (2,000, 20,000 and, ours alone, 1,000,000, if none are given), and has each side make batches of
them in a fresh process, from a warm import on: packed rows of 2,048 positions, and padded ones. `first` is the time to
the first batch; rows and tokens a second are those of an epoch, or of 20 seconds of it. The share of time waited is
that of a device which takes so many tokens a second and leaves the processor alone meanwhile, as a GPU would; a model's
loading is stood in for by 3 seconds of sleep. Memory is the process's resident set above what it had after its imports.
TRL comes with the extra `bench`; without it this ends with status 1.
The bounds are those of the project: the first batch of 1,000,000 rows within 2 seconds, memory that does not grow with
the rows, and at least TRL's tokens a second.
"""

import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 20
LENGTH = 2048
SPEEDS = (10_000, 50_000, 100_000)
"""Tokens a second of the devices that wait: about an 8B, a 1B and a half-size model on one large GPU."""
PEER_ROWS = 20_000
"""TRL prepares all rows before the first batch: more take minutes."""

OURS = """
import json, re, sys, time
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
file, tokenizer_folder, length, packed, workers, seconds = json.loads(sys.argv[1])
import jinja2.sandbox, tokenizers
from torchtune.data import Batches
from torchtune.datasets import InstructDataset
from torchtune.tokenizers import HFTokenizer
tokenizer = HFTokenizer(tokenizer_folder)
before, start = status("VmRSS"), time.perf_counter()
dataset = InstructDataset(tokenizer, file)
batches = Batches(dataset, 4, shuffle=True, seed=1, pad_id=0, workers=workers, packed_length=length if packed else None)
next(batches)
first = time.perf_counter() - start
tokens = slots = n = 0
start = time.perf_counter()
with batches:
    while batches.epoch < 1 and (now := time.perf_counter() - start) < seconds:
        batch = next(batches)
        tokens, slots, n = tokens + batch.n_tokens, slots + batch.tokens.numel(), n + 1
now = time.perf_counter() - start
peak = status("VmHWM") - before
print(json.dumps({"first": first, "tokens": tokens / now, "useful": tokens / slots, "peak": peak}))
"""

WAITS = """
import json, sys, time
file, tokenizer_folder, length, speed, workers, seconds = json.loads(sys.argv[1])
import jinja2.sandbox, tokenizers
from torchtune.data import Batches
from torchtune.datasets import InstructDataset
from torchtune.tokenizers import HFTokenizer
tokenizer = HFTokenizer(tokenizer_folder)
dataset = InstructDataset(tokenizer, file)
batches = Batches(dataset, 4, shuffle=True, seed=1, pad_id=0, workers=workers, packed_length=length)
waited = 0.0
with batches:
    time.sleep(3)
    start = time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        batch = next(batches)
        waited += time.perf_counter() - now
        time.sleep(batch.n_tokens / speed)
    print(json.dumps({"share": waited / (time.perf_counter() - start)}))
"""

PEER = """
import json, os, re, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
file, tokenizer_folder, length, packed, workers, seconds = json.loads(sys.argv[1])
import tempfile
import datasets, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer
datasets.disable_progress_bars()
tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8,
    num_hidden_layers=1, num_attention_heads=1))
def turns(row):
    asked, said = row["instruction"], row["output"]
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
before, start = status("VmRSS"), time.perf_counter()
with tempfile.TemporaryDirectory() as cache:
    table = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
    table = table.map(turns, remove_columns=table.column_names)
    config = SFTConfig(output_dir=cache, packing=packed, max_length=length, per_device_train_batch_size=4,
        dataset_num_proc=workers or None, report_to="none", use_cpu=True, bf16=False)
    trainer = SFTTrainer(model, config, train_dataset=table, processing_class=tokenizer)
    loader = iter(trainer.get_train_dataloader())
    next(loader)
    first = time.perf_counter() - start
    tokens = slots = 0
    for batch in loader:
        ids = batch["input_ids"]
        real = batch["attention_mask"].sum() if "attention_mask" in batch else ids.numel()
        tokens, slots = tokens + int(real), slots + ids.numel()
    now = time.perf_counter() - start
    peak = status("VmHWM") - before
print(json.dumps({"first": first, "tokens": tokens / now, "useful": tokens / max(slots, 1), "peak": peak}))
"""


def write_rows(path: Path, n: int) -> None:
    """Write rows whose lengths vary as instruction data's do."""
    rng = random.Random(0)
    words = "the water of a river flows over stones and carries sand to the sea where it settles".split()  # noqa: SIM905
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            asked, said = (
                " ".join(rng.choices(words, k=min(int(rng.lognormvariate(3, 0.7)) + 3, 400))) for _ in "qa"
            )
            file.write(
                json.dumps({"instruction": f"{i}: {asked}?", "input": "", "output": f"{said}."}) + "\n"
            )


def measure(program: str, *arguments: object) -> dict[str, float]:
    """Run one side in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the benchmark failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(name: str, found: dict[str, float], beside: dict[str, float] | None) -> None:
    ratio = "" if beside is None else f"  {found['tokens'] / beside['tokens']:6.2f}x"
    print(
        f"  {name:24}first {found['first']:7.2f} s  {found['tokens']:10,.0f} tokens/s{ratio:9}"
        f"  useful {found['useful']:6.1%}  peak {found['peak'] / 2**20:6.0f} MiB",
        flush=True,
    )


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if importlib.util.find_spec("trl") is None:
        sys.exit("TRL is not installed: pip install 'torchtune[bench]'")
    tokenizer = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        for n in [int(word) for word in sys.argv[2:]] or [2_000, 20_000, 1_000_000]:
            file = Path(folder, f"{n}.jsonl")
            write_rows(file, n)
            print(f"{n:,} rows, {file.stat().st_size / 2**20:.0f} MiB")
            for packed in (True, False):
                kind = "packed" if packed else "padded"
                beside = None
                if n <= PEER_ROWS:
                    beside = measure(PEER, str(file), tokenizer, LENGTH, packed, 1, SECONDS)
                    show(f"TRL, {kind}", beside, beside)
                for workers in (0, 1, 2):
                    found = measure(OURS, str(file), tokenizer, LENGTH, packed, workers, SECONDS)
                    show(f"ours, {kind}, {workers} workers", found, beside)
            for speed in SPEEDS:
                shares = [
                    measure(WAITS, str(file), tokenizer, LENGTH, speed, workers, SECONDS / 2)["share"]
                    for workers in (0, 1, 2)
                ]
                said = ", ".join(f"{share:.1%}" for share in shares)
                print(
                    f"  a device of {speed:,} tokens/s waits {said} of the time with 0, 1, 2 workers",
                    flush=True,
                )


if __name__ == "__main__":
    main()
