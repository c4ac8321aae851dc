"""What a run tells about itself: `metrics.jsonl`, a logger, and the terminal."""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch

from torchtune.data import Batch
from torchtune.training._world import World

if TYPE_CHECKING:
    from tqdm import tqdm

FILENAME = "metrics.jsonl"


class Logger(Protocol):
    """Where metrics go besides, such as a `torchtune.utils.metric_logging.MetricLogger`."""

    def log_dict(self, metrics: Mapping[str, float | int], step: int) -> None:
        """Record several metrics of one optimizer step."""

    def close(self) -> None:
        """Let go of files and connections."""


class Metrics:
    """The metrics of each optimizer step, written by rank 0.

    `<output_dir>/metrics.jsonl` gets one JSON object a step:

    - `step`: from 1.
    - `loss`: mean over the step's target tokens on all ranks.
    - `lr`: of the first parameter group.
    - `grad_norm`: L2, before clipping.
    - `tokens_per_second`: useful tokens of all ranks, no padding, by the time since the step before.
    - `padding_share`: of the tokens computed, from 0 to 1.
    - `peak_memory_bytes`: of rank 0, allocated on its GPU or resident in its process.

    A step that was skipped, having no target token or no finite loss, has a loss, lr and norm of null; it is told and
    counted.

    On a terminal a progress bar shows loss and speed; where standard error is none, a line of text is written
    every so often instead.

    Use it as a context manager, so that the logger is closed also when the run fails.

    Args:
        output_dir: The run's folder.
        logger: Gets the same numbers; None where there is none, as on all ranks but 0.
        world: This process and its fellows.
        step: Optimizer steps taken so far; lines of `metrics.jsonl` after it are cut off.
        total_steps: Optimizer steps of the whole run.
        log_every: Optimizer steps between two calls of the logger and two plain lines.
    """

    def __init__(
        self,
        output_dir: str,
        logger: Logger | None,
        world: World,
        step: int,
        total_steps: int,
        *,
        log_every: int = 1,
    ) -> None:
        self._world = world
        self._logger = logger
        self._first_step, self._total_steps, self._log_every = step, total_steps, log_every
        self._path = Path(output_dir) / FILENAME
        self._bar: tqdm[Any] | None = None
        self._n_skipped = 0
        if world.is_main:
            cut_back(self._path, step)

    def __enter__(self) -> Self:
        self._since = time.perf_counter()
        if self._world.is_main:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
            if sys.stderr.isatty():
                from tqdm import tqdm

                columns, lines = shutil.get_terminal_size()  # tqdm draws nothing on a terminal that says 0
                self._bar = tqdm(
                    total=self._total_steps,
                    initial=self._first_step,
                    unit="step",
                    ncols=columns,
                    nrows=lines,
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, the bar and the logger."""
        if self._world.is_main:
            self._file.close()
        if self._bar is not None:
            self._bar.close()
        if self._logger is not None:
            self._logger.close()

    def log(self, step: int, batches: Sequence[Batch], *, loss: float, lr: float, grad_norm: float) -> None:
        """Record one optimizer step; all ranks must call it.

        Args:
            step: Optimizer steps taken so far, this one included.
            batches: The step's micro-batches of this rank; their tokens are counted.
            loss: Mean over the step's target tokens on all ranks.
            lr: Learning rate of this step, of the first parameter group.
            grad_norm: L2 norm of the gradient before it was clipped.
        """
        self._record(step, batches, {"loss": loss, "lr": lr, "grad_norm": grad_norm}, f"loss {loss:.4f}")

    def skip(self, step: int, batches: Sequence[Batch], why: str) -> None:
        """Record a step that changed nothing; all ranks must call it.

        Args:
            step: Optimizer steps so far, this one included.
            batches: The step's micro-batches of this rank.
            why: What was the matter with it.
        """
        self._n_skipped += 1
        values: dict[str, float | None] = {"loss": None, "lr": None, "grad_norm": None}
        self._record(step, batches, values, f"skipped ({self._n_skipped} so far): {why}", is_told=True)

    def _record(
        self,
        step: int,
        batches: Sequence[Batch],
        values: dict[str, float | None],
        shown: str,
        *,
        is_told: bool = False,
    ) -> None:
        useful = self._world.data_sum(sum(batch.n_tokens for batch in batches))
        slots = self._world.data_sum(sum(batch.tokens.numel() for batch in batches))
        if not self._world.is_main:
            return
        now = time.perf_counter()
        speed, self._since = useful / (now - self._since), now
        values |= {
            "tokens_per_second": round(speed, 1),
            "padding_share": 1 - useful / slots,
            "peak_memory_bytes": peak_memory_bytes(self._world.device),
        }
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        self._show(step, f"{shown}, {speed:.0f} tokens/s", is_told=is_told)
        if self._logger is not None and self._is_due(step):
            self._logger.log_dict({name: value for name, value in values.items() if value is not None}, step)

    def _show(self, step: int, text: str, *, is_told: bool) -> None:
        if self._bar is not None:
            if is_told:
                self._bar.write(f"step {step}: {text}", file=sys.stderr)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        elif is_told or self._is_due(step):
            print(f"step {step}/{self._total_steps}: {text}", file=sys.stderr, flush=True)

    def _is_due(self, step: int) -> bool:
        return step % self._log_every == 0 or step == self._total_steps


def cut_back(path: Path, step: int) -> None:
    """Drop the lines of a `metrics.jsonl` that come after a step, and those that a kill left unfinished."""
    if not path.is_file():  # nor one of the system's, such as /dev/full, that has no end
        return
    kept = [line for line in path.read_text("utf-8").splitlines(keepends=True) if _is_kept(line, step)]
    part = path.with_suffix(".part")
    part.write_text("".join(kept), "utf-8")
    part.replace(path)


def _is_kept(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


def peak_memory_bytes(device: torch.device) -> int:
    """Measure the most memory held so far: allocated on a GPU, or resident in this process on the CPU.

    Apple GPUs share the machine's memory and keep no peak, so the process counts for them too.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (
        peak if os.uname().sysname == "Darwin" else peak * 1024
    )  # bytes on macOS, KiB elsewhere: getrusage(2)
