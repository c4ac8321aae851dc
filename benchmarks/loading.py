"""Seconds and peak memory of loading a checkpoint, compared with transformers.

    python -m benchmarks.loading [FOLDER ...] [--runs N] [--layers N]

Loads each Hugging Face folder, and a synthetic sharded checkpoint of 3 GB, alternately with torchtune and transformers.
Each load runs in a fresh process and reads every weight once. Peak memory is the peak resident set minus the resident
set after the imports, as a multiple of the weights' size. Exits with status 1 if torchtune is slower than transformers
or its peak memory exceeds 1.15 times the weights' size.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from benchmarks.command_line import benchmark_parser
from benchmarks.fresh_process import in_fresh_process
from benchmarks.process_memory import peak_bytes, resident_bytes

if TYPE_CHECKING:
    from torch import nn

MAX_MEMORY = 1.15
"""Maximum peak memory, as a multiple of the weights' size."""


class Measurement(TypedDict):
    """The cost of loading a folder once."""

    seconds: float
    peak: int
    """Peak resident memory minus the resident memory after the imports (bytes)."""
    size: int
    """Size of all weights (bytes)."""


def main() -> int:
    """Measure and print; return 1 if a bound is exceeded."""
    parser = benchmark_parser("loading", __doc__)
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="loads per library")
    layers_help = "layers of the synthetic checkpoint, 0.8 GB each; 0 skips this checkpoint"
    parser.add_argument("--layers", type=int, default=3, metavar="N", help=layers_help)
    arguments = parser.parse_args()
    n_exceeded = 0
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(folder) for folder in arguments.folders]
        if arguments.layers:
            folders.append(Path(scratch, "synthetic"))
            in_fresh_process(write_synthetic, str(folders[-1]), arguments.layers)
        for folder in folders:
            n_exceeded += not compare(folder, arguments.runs)
    return int(n_exceeded > 0)


def compare(folder: Path, n_runs: int) -> bool:
    """Load a folder alternately with both libraries, print medians, and return whether torchtune meets its bounds."""
    runs, peer = list[Measurement](), list[Measurement]()
    for _ in range(n_runs):
        runs.append(in_fresh_process(load, str(folder)))
        peer.append(in_fresh_process(load_with_transformers, str(folder)))
    print(f"{folder.name}, {runs[0]['size'] / 1e9:.2f} GB of weights")
    seconds, peer_seconds = median_seconds(runs), median_seconds(peer)
    show("torchtune", seconds, seconds / peer_seconds, peak_ratio(runs))
    show("transformers", peer_seconds, 1.0, peak_ratio(peer))
    return seconds <= peer_seconds and peak_ratio(runs) <= MAX_MEMORY


def median_seconds(runs: list[Measurement]) -> float:
    return statistics.median(run["seconds"] for run in runs)


def peak_ratio(runs: list[Measurement]) -> float:
    """Return the largest peak memory, as a multiple of the weights' size."""
    return max(run["peak"] / run["size"] for run in runs)


def show(library: str, seconds: float, ratio: float, peak: float) -> None:
    print(f"  {library:14}{seconds:7.2f} s {ratio:6.2f}x   peak {peak:5.2f}x the weights", flush=True)


def write_synthetic(folder: str, n_layers: int) -> None:
    """Write a Llama model with the widths of a 7B model, as float32 shards of at most 1 GB."""
    import torch

    from torchtune.formats import save_hf_folder
    from torchtune.models.llama2 import llama2

    torch.manual_seed(0)
    save_hf_folder(llama2(vocab_size=16_000, num_layers=n_layers), folder, shard_bytes=10**9)


def load(folder: str) -> Measurement:
    """Load a folder with torchtune."""
    import torch

    from torchtune.formats import hf_decoder, load_hf_weights

    before, start = resident_bytes(), time.perf_counter()
    with torch.device("meta"):
        model = hf_decoder(folder)
    load_hf_weights(model, folder)
    return measure_loaded(model, before, start)


def load_with_transformers(folder: str) -> Measurement:
    """Load a folder with transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    before, start = resident_bytes(), time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return measure_loaded(model, before, start)


def measure_loaded(model: "nn.Module", before: int, start: float) -> Measurement:
    """Read every weight, and return the cost of loading the model since `start`."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            # Sum in chunks: a complete embedding in float64 would dominate the measured memory.
            for rows in torch.split(parameter, 256):
                float(rows.sum(dtype=torch.float64))
    seconds = time.perf_counter() - start
    size = sum(parameter.nbytes for parameter in model.parameters())
    return {"seconds": seconds, "peak": peak_bytes() - before, "size": size}


if __name__ == "__main__":
    sys.exit(main())
