"""Where the time goes between the command and the first optimizer step.

    python -m benchmarks.first_step MODEL ROWS [--repeats N]

MODEL is a Hugging Face folder, such as models/SmolLM2-135M-Instruct from `make demo`; ROWS is a file of Alpaca rows.
Prints the median seconds of each part of `tune lora_finetune` on packs of 1,024 tokens in float32, the modules with the
longest import times (excluding nested imports), and any unnecessary large packages that the run imported.
"""

import contextlib
import functools
import re
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any, TypedDict

from benchmarks.command_line import benchmark_parser
from benchmarks.fresh_process import FreshProcess

LARGE_PACKAGES = ["torch._dynamo", "torch._inductor", "sympy", "transformers", "datasets", "pandas"]
LARGE_PACKAGES += ["pyarrow", "wandb", "tensorboard", "matplotlib", "scipy", "sklearn", "peft", "accelerate"]
LARGE_PACKAGES += ["huggingface_hub"]
PRECEDING = {
    "build_model": "reading and checking the config",
    "Placement.place": "adapters",
    "build_optimizer": "the loss",
    "Run": "the validator",
}
"""The work of a recipe before each of these calls."""
PARTS = (
    "build_model",
    "open_datasets",
    "Loading.batches",
    "Placement.place",
    "build_optimizer",
    "build_schedule",
    "Run",
)
"""The timed calls of a recipe, by their names in `torchtune.training` and `torchtune.placement`."""
MIN_PART_SECONDS = 0.02
"""Shorter parts are added up and reported as `other`."""
OFFLINE = {"HF_HUB_OFFLINE": "1"}


class Startup(TypedDict):
    """The startup of one run."""

    seconds: dict[str, float]
    """Seconds of each part, in order."""
    large_packages: list[str]
    """The members of `LARGE_PACKAGES` that were imported."""


def main() -> None:
    """Run the command several times, and once with `-X importtime`."""
    parser = benchmark_parser("first_step", __doc__)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("rows", metavar="ROWS")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    arguments = parser.parse_args()
    model, rows = arguments.model, arguments.rows
    fresh = FreshProcess(environment=OFFLINE)
    startups = [fresh.call(time_start, model, rows, time.time()).result for _ in range(arguments.repeats)]
    show_parts([startup["seconds"] for startup in startups])
    logged = FreshProcess(environment=OFFLINE, options=("-X", "importtime"))
    show_imports(logged.call(time_start, model, rows, time.time()).stderr)
    print(f"large packages that were imported: {', '.join(startups[0]['large_packages']) or 'none'}")


def show_parts(runs: list[dict[str, float]]) -> None:
    """Print the median seconds of each part, and its fraction of the total."""
    total = statistics.median(sum(seconds.values()) for seconds in runs)
    for name in runs[0]:
        part = statistics.median(seconds.get(name, 0.0) for seconds in runs)
        print(f"{name:42}{part:7.2f} s {part / total:5.0%}  {'#' * round(50 * part / total)}")
    print(f"{'the command to the first step':42}{total:7.2f} s\n")


def show_imports(log: str) -> None:
    """Print the longest imports in a log of `-X importtime`."""
    lines = re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", log)
    longest = sorted(((int(micros), name) for micros, name in lines), reverse=True)
    print("longest imports, excluding nested imports")
    for micros, name in longest[:8]:
        print(f"  {name:40}{micros / 1e3:7.0f} ms")


def tune_args(model: str, rows: str, folder: str) -> list[str]:
    """Return the arguments of `tune`."""
    args = ["lora_finetune", "--config", "smollm2_135m_lora", f"output_dir={folder}/run"]
    args += [f"model_directory={model}", "model=torchtune.formats.hf_decoder"]
    args += ["model.path=${model_directory}", "tokenizer=torchtune.tokenizers.auto_tokenizer"]
    args += ["tokenizer.path=${model_directory}", f"dataset.source={rows}", "validation=null"]
    args += ["max_steps=1", "device=cpu", "loading.workers=0", "lr_scheduler=null"]
    return [*args, "loading.packing.length=1024", "batch_size=1"]


class _FirstStepDone(BaseException):
    """Ends a run after its first step; a BaseException, so that no `except Exception` catches it."""


class Clock:
    """Measures the time between marks; each mark names the part of the work that ends at it.

    Args:
        start: Start time of the first part (seconds since the epoch).
    """

    def __init__(self, start: float) -> None:
        self._marks = [("", start)]

    def mark(self, name: str) -> None:
        """Record the end of a part."""
        self._marks.append((name, time.time()))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part, and the total of the short parts as `other`."""
        parts: dict[str, float] = {}
        for (_, start), (name, end) in pairwise(self._marks):
            parts[name] = parts.get(name, 0.0) + end - start
        long_parts = {name: seconds for name, seconds in parts.items() if seconds >= MIN_PART_SECONDS}
        return {**long_parts, "other": sum(parts.values()) - sum(long_parts.values())}

    def watch(self, package: Any, name: str) -> None:
        """Time the calls of a package's function, or of its method `Class.method`."""
        class_name, _, attribute = name.rpartition(".")
        owner = getattr(package, class_name) if class_name else package
        function = getattr(owner, attribute)

        @functools.wraps(function, updated=())
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.mark(PRECEDING.get(name, f"before {name}"))
            result = function(*args, **kwargs)
            self.mark(name)
            return result

        setattr(owner, attribute, timed)


def time_start(model: str, rows: str, start: float) -> Startup:
    """Run `tune` up to the end of the first step, and time its parts.

    Args:
        model: The model's folder.
        rows: The file of rows.
        start: Start time of this process (seconds since the epoch).
    """
    from torchtune.internals import limit_heap_growth

    limit_heap_growth()  # as `tune` does
    clock = Clock(start)
    clock.mark("Python and heap settings")
    import torch  # noqa: F401 - its import is timed

    clock.mark("import torch")
    from torchtune import placement, training
    from torchtune.cli import main as tune

    clock.mark("import torchtune.training")
    for name in PARTS:
        clock.watch(placement if name.startswith("Placement.") else training, name)

    def stop(*_: Any) -> None:
        clock.mark("the first step")
        raise _FirstStepDone

    training.Metrics.log = stop  # type: ignore[assignment, method-assign]  # only in this process
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_FirstStepDone):
        sys.exit(tune(tune_args(model, rows, folder)) or "the run ended before its first step")
    large_packages = [name for name in LARGE_PACKAGES if name in sys.modules]
    return {"seconds": clock.seconds(), "large_packages": large_packages}


if __name__ == "__main__":
    main()
