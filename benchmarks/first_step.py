"""Where the time goes between the command and the first optimizer step.

    python benchmarks/first_step.py MODEL ROWS [--repeats N]

MODEL is a Hugging Face folder, such as SmolLM2-135M-Instruct as `make demo` leaves it in models/; ROWS are Alpaca rows.
Prints the median seconds of each part of `tune lora_finetune`, on packed rows of 1,024 tokens in float32; then the
modules that took longest to import, by themselves, and which large packages a run imports although it could do without:
there should be none.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LARGE = [
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "transformers",
    "datasets",
    "pandas",
    "pyarrow",
    "wandb",
]
LARGE += ["tensorboard", "matplotlib", "scipy", "sklearn", "peft", "accelerate", "huggingface_hub"]
BEFORE = {
    "start": "reading and checking the config",
    "Placement.place": "adapters",
    "build_optimizer": "the loss",
    "Run": "the validator",
}
"""What a recipe does before it calls these."""
PARTS = (
    "start",
    "build_model",
    "open_datasets",
    "Loading.batches",
    "Placement.place",
    "build_optimizer",
    "build_schedule",
    "Run",
)


def main() -> None:
    """Run the command some times, and once with Python's own clock of imports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measured", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measured is not None:
        from torchtune.internals import steady_heap

        steady_heap()  # as `tune` does
        with tempfile.TemporaryDirectory() as folder:
            measure(arguments.measured, words_of(arguments.model, arguments.rows, folder))
        return
    call = [sys.executable, __file__, arguments.model, arguments.rows, "--measured"]
    runs = [run(call) for _ in range(arguments.repeats)]
    seconds = {
        name: statistics.median(found["seconds"][name] for found, _ in runs) for name in runs[0][0]["seconds"]
    }
    whole = statistics.median(sum(found["seconds"].values()) for found, _ in runs)
    for name, took in seconds.items():
        print(f"{name:42}{took:7.2f} s {took / whole:5.0%}  {'#' * round(50 * took / whole)}")
    print(f"{'the command to the first step':42}{whole:7.2f} s\n")
    _, said = run(call, "-X", "importtime")
    print("imports that took longest by themselves")
    lines = re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", said)
    for micros, name in sorted(((int(micros), name) for micros, name in lines), reverse=True)[:8]:
        print(f"  {name:40}{micros / 1e3:7.0f} ms")
    print(f"large packages that were imported: {', '.join(runs[0][0]['large']) or 'none'}")


def run(call: list[str], *options: str) -> tuple[dict[str, Any], str]:
    """Run once, and return what was measured, and what Python said."""
    words = [call[0], *options, *call[1:], repr(time.time())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"the benchmark failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, done.stderr


def words_of(model: str, rows: str, folder: str) -> list[str]:
    """Return what `tune` is told."""
    words = ["lora_finetune", "--config", "smollm2_135m_lora", f"output_dir={folder}/run"]
    words += [
        f"model_directory={model}",
        "model=torchtune.formats.hf_decoder",
        "model.path=${model_directory}",
    ]
    words += ["tokenizer=torchtune.tokenizers.auto_tokenizer", "tokenizer.path=${model_directory}"]
    words += [
        f"dataset.source={rows}",
        "validation=null",
        "max_steps=1",
        "device=cpu",
        "loading.workers=0",
        "lr_scheduler=null",
    ]
    return [*words, "loading.packing.length=1024", "batch_size=1"]


def measure(begun: float, words: list[str]) -> None:
    """Be `tune`, with a clock read at the borders of its parts."""
    marks = [("Python, and the heap's settings", time.time())]
    import torch  # noqa: F401 -- it is what is measured

    marks.append(("import torch", time.time()))
    from torchtune import training
    from torchtune.cli import main as tune

    marks.append(("import torchtune.training", time.time()))

    def timed(name: str) -> None:
        owner, _, method = name.rpartition(".")
        holder = getattr(training, owner) if owner else training
        plain = getattr(holder, method)

        def call(*given: Any, **more: Any) -> Any:
            marks.append((BEFORE.get(name, f"before {name}"), time.time()))
            found = plain(*given, **more)
            marks.append((name, time.time()))
            return found

        setattr(holder, method, call)

    for name in PARTS:
        timed(name)

    def logged(*_: Any, **__: Any) -> None:
        marks.append(("the first step", time.time()))
        raise _DoneError

    training.Metrics.log = logged  # type: ignore[method-assign]
    with contextlib.suppress(_DoneError):
        sys.exit(tune(words))  # it has failed, and said why
    seconds: dict[str, float] = {}
    for (name, at), before in zip(marks, [begun, *(at for _, at in marks)], strict=False):
        seconds[name] = seconds.get(name, 0.0) + at - before
    kept = {name: took for name, took in seconds.items() if took >= 0.02}
    kept["the rest"] = sum(seconds.values()) - sum(kept.values())
    large = [name for name in LARGE if name in sys.modules]
    print(json.dumps({"seconds": kept, "large": large}))


class _DoneError(BaseException):
    """The first step is done."""


if __name__ == "__main__":
    main()
