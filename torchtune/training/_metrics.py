"""What a run tells about itself: `metrics.jsonl`, a logger, and the terminal."""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from attrs import define, field

from torchtune.data import Batch
from torchtune.files import write_text
from torchtune.runs import RunFolder
from torchtune.training._loggers import Loggers
from torchtune.training._profiling import Profiling, profiled
from torchtune.training._world import World
from torchtune.utils.metric_logging import MetricLogger

if TYPE_CHECKING:
    from tqdm import tqdm


@define(eq=False, slots=False)
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
    - `mfu`: the share of what the devices can do that the step's useful tokens need (`step_flops`), where the
      devices' peak is known.

    A step that was skipped, having no target token or no finite loss, has a loss, lr and norm of null; it is told and
    counted. A validation is an object of its own, behind that of its step: `step`, `validation_loss` (mean over
    target tokens, null if it is no number) and `validation_targets`.

    On a terminal a progress bar shows loss, speed, padding and the time left; where standard error is none, a line of
    text is written every so often instead.

    Use it as a context manager, so that the loggers are closed also when the run fails.

    Args:
        output_dir: The run's folder.
        loggers: Get the same numbers; none on all ranks but 0. One that raises is told of and asked no more.
        world: This process and its fellows.
        step: Optimizer steps taken so far; lines of `metrics.jsonl` after it are cut off.
        total_steps: Optimizer steps of the whole run.
        log_every: Optimizer steps between two calls of the loggers and two plain lines.
        flops: Counts the operations of a step's batches.
        peak: What each device can do, FLOP/s; None: not known.
        profiling: Which steps are recorded; None: none.
    """

    _output_dir: str
    loggers: Sequence[MetricLogger]
    _world: World
    _step: int
    _total_steps: int
    _log_every: int = field(default=1, kw_only=True)
    _flops: Callable[[Sequence[Batch]], float] | None = field(default=None, kw_only=True)
    _peak: float | None = field(default=None, kw_only=True)
    _profiling: Profiling | None = field(default=None, kw_only=True)
    _step_done: Callable[[], None] = field(default=lambda: None, init=False)
    _validation: str = field(default="", init=False)
    _bar: "tqdm[Any] | None" = field(default=None, init=False)
    _n_skipped: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._loggers = Loggers(self.loggers, self.note)
        self._stack = ExitStack()
        self._path = RunFolder(self._output_dir).metrics
        if self._world.is_main:
            cut_back(self._path, self._step)

    def __enter__(self) -> Self:
        self._stack.callback(self._loggers.close)
        if self._world.is_main:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._stack.enter_context(self._path.open("a", encoding="utf-8"))
            if sys.stderr.isatty():
                from tqdm import tqdm

                columns, lines = shutil.get_terminal_size()  # tqdm draws nothing on a terminal that says 0
                self._bar = tqdm(
                    total=self._total_steps,
                    initial=self._step,
                    bar_format="{percentage:3.0f}%|{bar:10}| {n}/{total} [{elapsed}<{remaining}{postfix}]",
                    ncols=columns,
                    nrows=lines,
                )
                self._stack.callback(self._bar.close)
        self._step_done = self._stack.enter_context(profiled(self._profiling, self._output_dir, self._world))
        self._since = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        """End the profile, and close the bar, the file and the loggers."""
        self._stack.__exit__(*error)

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
        self._record(step, batches, values, f"skipped ({self._n_skipped} so far): {why}")

    def validated(
        self,
        step: int,
        loss: float | None,
        n_targets: int,
        answers: Sequence[tuple[str, str]] = (),
        *,
        is_best: bool,
    ) -> None:
        """Record a validation.

        Args:
            step: Optimizer steps so far.
            loss: Mean over the target tokens of the rows that it looked at; None if it is no number.
            n_targets: How many there are.
            answers: Prompts with what the model said.
            is_best: Whether no loss was lower so far.
        """
        if not self._world.is_main:
            return
        self._write({"step": step, "validation_loss": loss, "validation_targets": n_targets})
        found = "is no number" if loss is None else f"{loss:.4f}"
        self._validation = f"validation {found}"
        self.note(f"step {step}: validation loss {found}{', the lowest so far' * (is_best and step > 0)}")
        for prompt, answer in answers:
            self.note(f"  {_shortened(prompt, 40)} {_shortened(answer, 80)}")
        if loss is not None:
            self._loggers.log_dict({"validation_loss": loss}, step)

    def pass_over(self, seconds: float) -> None:
        """Count so many seconds to no step's speed."""
        self._since += seconds

    def note(self, text: str) -> None:
        """Write a line for the user, on rank 0."""
        if not self._world.is_main:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _record(
        self, step: int, batches: Sequence[Batch], values: dict[str, float | None], shown: str
    ) -> None:
        useful = self._world.data_sum(sum(batch.n_tokens for batch in batches))
        slots = self._world.data_sum(sum(batch.tokens.numel() for batch in batches))
        padding_share = self._world.data_sum(sum(batch.n_padding for batch in batches)) / slots
        flops = 0.0
        if self._peak is not None and self._flops is not None:
            flops = self._world.data_sum(self._flops(batches))
        seconds = time.perf_counter() - self._since
        self._step_done()
        self._since = time.perf_counter()  # what a profiler writes is no step's time
        if not self._world.is_main:
            return
        values |= {
            "tokens_per_second": round(useful / seconds, 1),
            "padding_share": padding_share,
            "peak_memory_bytes": peak_memory_bytes(self._world.device),
        }
        if self._peak is not None:
            values["mfu"] = round(flops / (seconds * self._peak * self._world.size), 4)
        self._write({"step": step, **values})
        padding = f", {padding_share:.0%} padding" if self._bar is not None else ""
        self._show(step, f"{shown}, {useful / seconds:.0f} tokens/s{padding}", is_told=values["loss"] is None)
        if self._is_due(step):
            self._loggers.log_dict({name: value for name, value in values.items() if value is not None}, step)

    def _write(self, line: Mapping[str, float | None]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _show(self, step: int, text: str, *, is_told: bool) -> None:
        if self._bar is not None:
            if is_told:
                self.note(f"step {step}: {text}")
            self._bar.set_postfix_str(", ".join(filter(None, [text, self._validation])), refresh=False)
            self._bar.update()
        elif is_told or self._is_due(step):
            print(f"step {step}/{self._total_steps}: {text}", file=sys.stderr, flush=True)

    def _is_due(self, step: int) -> bool:
        return step % self._log_every == 0 or step == self._total_steps


def _shortened(text: str, longest: int) -> str:
    """Return text as one line in quotation marks, cut if it is too long."""
    line = " ".join(text.split())
    return f"“{line}”" if len(line) <= longest else f"“{line[: longest - 1].rstrip()}…”"


def cut_back(path: Path, step: int) -> None:
    """Drop the lines of a run's file that come after a step, and those that a kill left unfinished.

    A run that begins again at step 0 looks at held-out rows again as well, so that nothing is kept.
    """
    if not path.is_file():  # nor one of the system's, such as /dev/full, that has no end
        return
    # Not `splitlines`, which would take a separator within a text for the end of a line.
    with path.open(encoding="utf-8", newline="\n") as file:
        kept = [line for line in file if _is_kept(line, step)]
    write_text(path, "".join(kept))


def _is_kept(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and step > 0 and bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


def peak_memory_bytes(device: torch.device) -> int:
    """Measure the most memory held so far: allocated on a GPU, or resident in this process on the CPU.

    Apple GPUs share the machine's memory and keep no peak, so the process counts for them too.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere: getrusage(2)
    return peak if os.uname().sysname == "Darwin" else peak * 1024
