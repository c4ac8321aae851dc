"""Speed of building batches from a .jsonl file, compared with TRL's preparation of the same rows.

    python -m benchmarks.data TOKENIZER_FOLDER [ROWS ...] [--seconds N] [--no-trl]

Writes synthetic rows (by default 2,000, 20,000 and, for torchtune only, 1,000,000). Each library then builds batches
from them in a fresh process: packs of 2,048 positions, and padded rows. The clock starts after the imports. `first` is
the time to the first batch; throughput is measured over one epoch or the first 20 seconds of it. The waiting time
refers to a simulated device, which consumes a fixed number of tokens per second without using the CPU, as a GPU would;
a sleep of 3 seconds represents loading a model. Memory is the peak resident set minus the resident set after the
imports. The extra `bench` installs TRL; without TRL, the benchmark exits with status 1 unless --no-trl is passed.
Targets: the first batch of 1,000,000 rows within 2 seconds, memory that does not grow with the number of rows, and at
least TRL's throughput.
"""

import importlib.util
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from benchmarks.command_line import benchmark_parser
from benchmarks.fresh_process import in_fresh_process
from benchmarks.process_memory import peak_bytes, resident_bytes

if TYPE_CHECKING:
    from torchtune.data import Batches, Example

ROWS = [2_000, 20_000, 1_000_000]
LENGTH = 2048
"""Positions in a pack, and maximum number of tokens in a TRL example."""
BATCH_SIZE = 4
WORKERS = (0, 1, 2)
SPEEDS = (10_000, 50_000, 100_000)
"""Tokens per second of the simulated devices: roughly those of an 8B, a 1B and a 0.5B model on one large GPU."""
MAX_TRL_ROWS = 20_000
"""TRL prepares all rows before the first batch; more rows would take minutes."""
WORDS = ["the", "water", "of", "a", "river", "flows", "over", "stones", "and", "carries", "sand", "to", "the"]
WORDS += ["sea", "where", "it", "settles"]


class Throughput(TypedDict):
    """The speed and memory of building batches with one library."""

    first: float
    """Seconds to the first batch."""
    tokens_per_second: float
    """Tokens without padding, divided by the time since the rows were opened, including preparation."""
    useful: float
    """Share of positions that are not padding, from 0 to 1."""
    peak: int
    """Peak resident memory minus the resident memory after the imports (bytes)."""


def main() -> None:
    parser = benchmark_parser("data", __doc__)
    parser.add_argument("tokenizer", metavar="TOKENIZER_FOLDER")
    parser.add_argument("rows", type=int, nargs="*", default=ROWS, metavar="ROWS")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="N", help="time limit for an epoch (seconds)"
    )
    parser.add_argument("--no-trl", action="store_true", help="run without TRL")
    arguments = parser.parse_args()
    if not arguments.no_trl and importlib.util.find_spec("trl") is None:
        sys.exit("TRL is not installed: pip install 'torchtune[bench]', or pass --no-trl")
    with tempfile.TemporaryDirectory() as folder:
        for n_rows in arguments.rows:
            file = Path(folder, f"{n_rows}.jsonl")
            write_rows(file, n_rows)
            print(f"{n_rows:,} rows, {file.stat().st_size / 2**20:.0f} MiB")
            for is_packed in (True, False):
                runs_trl = n_rows <= MAX_TRL_ROWS and not arguments.no_trl
                compare(str(file), arguments.tokenizer, arguments.seconds, is_packed, runs_trl)
            show_waiting(str(file), arguments.tokenizer, arguments.seconds / 2)


def compare(file: str, tokenizer: str, seconds: float, is_packed: bool, runs_trl: bool) -> None:
    """Measure both libraries with packed or padded rows, and print the results."""
    kind = "packed" if is_packed else "padded"
    trl = None
    if runs_trl:
        trl = in_fresh_process(build_batches_with_trl, file, tokenizer, is_packed=is_packed)
        show(f"TRL, {kind}", trl, trl)
    for workers in WORKERS:
        result = in_fresh_process(
            build_batches, file, tokenizer, is_packed=is_packed, workers=workers, seconds=seconds
        )
        show(f"torchtune, {kind}, {workers} workers", result, trl)


def show_waiting(file: str, tokenizer: str, seconds: float) -> None:
    """Print the fraction of time that devices of several speeds wait for packed batches."""
    for speed in SPEEDS:
        fractions = [
            in_fresh_process(waiting_fraction, file, tokenizer, speed=speed, workers=workers, seconds=seconds)
            for workers in WORKERS
        ]
        text = ", ".join(f"{fraction:.1%}" for fraction in fractions)
        print(f"  a device of {speed:,} tokens/s waits {text} of the time with 0, 1, 2 workers", flush=True)


def show(name: str, result: Throughput, trl: Throughput | None) -> None:
    ratio = "" if trl is None else f"  {result['tokens_per_second'] / trl['tokens_per_second']:6.2f}x"
    print(
        f"  {name:24}first {result['first']:7.2f} s  {result['tokens_per_second']:10,.0f} tokens/s{ratio:9}"
        f"  useful {result['useful']:6.1%}  peak {result['peak'] / 2**20:6.0f} MiB",
        flush=True,
    )


def write_rows(path: Path, n: int) -> None:
    """Write rows whose lengths vary like the lengths of instruction data."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            question, answer = (" ".join(rng.choices(WORDS, k=_text_length(rng))) for _ in range(2))
            row = {"instruction": f"{i}: {question}?", "input": "", "output": f"{answer}."}
            file.write(json.dumps(row) + "\n")


def _text_length(rng: random.Random) -> int:
    """Draw the length of a text (words)."""
    return min(int(rng.lognormvariate(3, 0.7)) + 3, 400)


def build_batches(file: str, tokenizer: str, *, is_packed: bool, workers: int, seconds: float) -> Throughput:
    """Build the batches of an epoch with torchtune.

    Args:
        file: The rows.
        tokenizer: The tokenizer's folder.
        is_packed: Whether to pack examples.
        workers: Number of encoding processes.
        seconds: Time limit; a longer epoch is cut off.
    """
    batches, before, start = open_batches(file, tokenizer, LENGTH if is_packed else None, workers)
    first = None
    n_tokens = n_positions = 0
    with batches:
        while batches.epoch < 1 and time.perf_counter() - start < seconds:
            batch = next(batches)
            first = first or time.perf_counter() - start
            n_tokens += batch.n_tokens
            n_positions += batch.tokens.numel()
        elapsed = time.perf_counter() - start
        return throughput(first or elapsed, elapsed, n_tokens, n_positions, before)


def waiting_fraction(file: str, tokenizer: str, *, speed: float, workers: int, seconds: float) -> float:
    """Return the fraction of time that a simulated device waits for packed batches.

    Args:
        file: The rows.
        tokenizer: The tokenizer's folder.
        speed: Tokens per second that the device consumes.
        workers: Number of encoding processes.
        seconds: Length of the measurement.
    """
    batches, _, _ = open_batches(file, tokenizer, LENGTH, workers)
    waiting = 0.0
    with batches:
        time.sleep(3)
        start = time.perf_counter()
        while (requested := time.perf_counter()) - start < seconds:
            batch = next(batches)
            waiting += time.perf_counter() - requested
            time.sleep(batch.n_tokens / speed)
        return waiting / (time.perf_counter() - start)


def open_batches(
    file: str, tokenizer: str, packed_length: int | None, workers: int
) -> "tuple[Batches[Example], int, float]":
    """Return batches of a file's rows, and the resident bytes and the time before the file was opened."""
    import tokenizers  # noqa: F401 - imported before the clock starts

    from torchtune.data import Batches
    from torchtune.datasets import InstructDataset
    from torchtune.tokenizers import HFTokenizer

    loaded_tokenizer = HFTokenizer(tokenizer)
    before, start = resident_bytes(), time.perf_counter()
    batches = Batches(
        InstructDataset(loaded_tokenizer, file),
        BATCH_SIZE,
        shuffle=True,
        seed=1,
        pad_id=0,
        workers=workers,
        packed_length=packed_length,
    )
    return batches, before, start


def build_batches_with_trl(file: str, tokenizer: str, *, is_packed: bool) -> Throughput:
    """Build the batches of an epoch with TRL's trainer, which prepares the rows with one worker."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets
    import torch  # noqa: F401 - imported before the clock starts
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    loaded_tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    tiny = LlamaConfig(
        vocab_size=len(loaded_tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    model = LlamaForCausalLM(tiny)
    before, start = resident_bytes(), time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        table = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
        table = table.map(as_conversation, remove_columns=table.column_names)
        config = SFTConfig(
            output_dir=cache,
            packing=is_packed,
            max_length=LENGTH,
            per_device_train_batch_size=BATCH_SIZE,
            dataset_num_proc=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
        )
        trainer = SFTTrainer(model, config, train_dataset=table, processing_class=loaded_tokenizer)
        batches: Iterator[dict[str, Any]] = iter(trainer.get_train_dataloader())
        first = None
        n_tokens = n_positions = 0
        for batch in batches:
            first = first or time.perf_counter() - start
            n_positions += batch["input_ids"].numel()
            mask = batch.get("attention_mask")
            n_tokens += batch["input_ids"].numel() if mask is None else int(mask.sum())
        elapsed = time.perf_counter() - start
    return throughput(first or elapsed, elapsed, n_tokens, n_positions, before)


def as_conversation(row: dict[str, str]) -> dict[str, Any]:
    """Convert an instruction row to TRL's conversation format."""
    question = {"role": "user", "content": row["instruction"]}
    return {"messages": [question, {"role": "assistant", "content": row["output"]}]}


def throughput(first: float, elapsed: float, n_tokens: int, n_positions: int, before: int) -> Throughput:
    """Return the throughput of batches.

    Args:
        first: Seconds to the first batch.
        elapsed: Seconds to the last batch.
        n_tokens: Tokens of all batches, without padding.
        n_positions: Positions of all batches.
        before: Resident bytes after the imports.
    """
    return {
        "first": first,
        "tokens_per_second": n_tokens / elapsed,
        "useful": n_tokens / max(n_positions, 1),
        "peak": peak_bytes() - before,
    }


if __name__ == "__main__":
    main()
