"""Write the metrics of a run to `metrics.jsonl`, loggers and the terminal."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from attrs import define, field

from torchtune.distributed import World
from torchtune.files import write_text
from torchtune.runs import RunFolder, peak_memory_bytes
from torchtune.training._profiling import Profiling, profile_steps
from torchtune.training._step_values import StepValues
from torchtune.utils.metric_logging import Loggers, MetricLogger

if TYPE_CHECKING:
    from tqdm import tqdm


@define(eq=False, slots=False)
class Metrics:
    """The metrics of each optimizer step, written by rank 0.

    `<output_dir>/metrics.jsonl` has one JSON object per step:

    - `step`: the optimizer step, counted from 1.
    - `loss`: mean over all ranks; each term is divided by its count, usually the number of target tokens in the step.
    - `lr`: learning rate of the first parameter group.
    - `grad_norm`: L2 norm of the gradient before clipping.
    - `tokens_per_second`: tokens of all ranks, not including padding, divided by the time since the previous step.
    - `padding_fraction`: fraction of the positions that are padding, from 0 to 1.
    - `peak_memory_bytes`: peak memory of rank 0, allocated on its GPU or resident in its process.
    - `mfu`: model FLOPs utilization: the step's model FLOPs (`step_flops`) as a fraction of the devices' peak; omitted
      if the peak is unknown.
    - under their own names: the terms of the loss if there are several, the metrics of the scorer, and additional
      values that the recipe passes to `Run.update`.

    If a step is skipped (no target token, or a NaN or infinite loss or gradient), its loss, lr and grad_norm are null.
    Each validation is a separate object after the object of its step: `step`, `validation_loss` (null if it is not
    finite), `validation_targets`, and the terms and metrics, with the prefix `validation_`.

    If standard error is a terminal, a progress bar shows loss, speed, padding and remaining time; otherwise, a line is
    written every `log_every` steps.

    Use it as a context manager, so that the loggers are closed even if the run fails.

    Args:
        output_dir: The run's folder.
        loggers: The loggers, which receive the same values; empty on ranks other than 0. A logger that raises is
            reported and removed.
        world: The ranks of this run.
        step: Number of optimizer steps taken so far; lines of later steps in `metrics.jsonl` are removed.
        total_steps: Number of optimizer steps in the whole run, which may be an estimate.
        log_every: Number of optimizer steps between calls of the loggers, and between lines of text.
        peak: Peak throughput of each device (FLOP/s); None: unknown.
        profiling: The steps to profile; None: no profiling.
    """

    _output_dir: str
    loggers: Sequence[MetricLogger]
    _world: World
    _step: int
    _total_steps: int
    _log_every: int = field(default=1, kw_only=True)
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
            remove_later_lines(
                self._path, self._step or -1
            )  # at step 0, the first validation is repeated as well

    def __enter__(self) -> Self:
        self._stack.callback(self._loggers.close)
        if self._world.is_main:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._stack.enter_context(self._path.open("a", encoding="utf-8"))
            if sys.stderr.isatty():
                from tqdm import tqdm

                columns, lines = (
                    shutil.get_terminal_size()
                )  # tqdm draws nothing if the terminal reports size 0
                self._bar = tqdm(
                    total=self._total_steps,
                    initial=self._step,
                    bar_format="{percentage:3.0f}%|{bar:10}| {n}/{total} [{elapsed}<{remaining}{postfix}]",
                    ncols=columns,
                    nrows=lines,
                )
                self._stack.callback(self._bar.close)
        self._step_done = self._stack.enter_context(
            profile_steps(self._profiling, self._output_dir, self._world)
        )
        self._since = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        """Close the profiler, the progress bar, the file and the loggers."""
        self._stack.__exit__(*error)

    def log(self, values: StepValues) -> None:
        """Record one optimizer step; all ranks must call this."""
        numbers: dict[str, float | None] = {
            "loss": values.loss,
            "lr": values.lr,
            "grad_norm": values.grad_norm,
        }
        self._record(values, numbers, f"loss {values.loss:.4f}")

    def skip(self, values: StepValues, reason: str) -> None:
        """Record a step whose update was skipped; all ranks must call this.

        Args:
            values: The step's values; the loss, learning rate and gradient norm are written as null.
            reason: The reason for skipping the step.
        """
        self._n_skipped += 1
        numbers: dict[str, float | None] = {"loss": None, "lr": None, "grad_norm": None}
        self._record(values, numbers, f"skipped ({self._n_skipped} so far): {reason}")

    def validated(
        self,
        step: int,
        loss: float | None,
        n_targets: int,
        reported: Mapping[str, float],
        answers: Sequence[tuple[str, str]] = (),
        *,
        is_best: bool,
    ) -> None:
        """Record a validation.

        Args:
            step: Number of optimizer steps so far.
            loss: Mean over the held-out rows; None if it is not finite.
            n_targets: Number of target tokens in the held-out rows.
            reported: Terms and metrics by name.
            answers: Prompts with the model's answers.
            is_best: Whether the loss is the lowest so far.
        """
        if not self._world.is_main:
            return
        terms = {f"validation_{name}": value for name, value in reported.items() if math.isfinite(value)}
        self._write({"step": step, "validation_loss": loss, "validation_targets": n_targets, **terms})
        text = "is NaN or infinite" if loss is None else f"{loss:.4f}"
        self._validation = f"validation {text}"
        self.note(f"step {step}: validation loss {text}{' (lowest so far)' * (is_best and step > 0)}")
        for prompt, answer in answers:
            self.note(f"  {_quote(prompt, 40)} {_quote(answer, 80)}")
        if loss is not None:
            self._loggers.log_dict({"validation_loss": loss, **terms}, step)

    def end_profiled_step(self) -> None:
        """Notify the profiler of the end of a step; all ranks must call this."""
        started = time.perf_counter()
        self._step_done()
        self.exclude_time(time.perf_counter() - started)  # writing a profile is not part of a step

    def step_seconds(self, ended_at: float) -> float:
        """Return the duration of a step (s), not including the time passed to `exclude_time`.

        Args:
            ended_at: Time at which the step ended and the next step began (s, `time.perf_counter`).
        """
        seconds = ended_at - self._since
        self._since = ended_at
        return seconds

    def exclude_time(self, seconds: float) -> None:
        """Exclude a time (s), such as the duration of a validation, from the duration of the current step."""
        self._since += seconds

    def note(self, text: str) -> None:
        """Print a line to standard error, on rank 0."""
        if not self._world.is_main:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _record(self, values: StepValues, numbers: dict[str, float | None], text: str) -> None:
        if not self._world.is_main:
            return
        step, speed = values.step, values.n_tokens / values.seconds
        padding_fraction = values.n_padding / values.n_positions
        finite = {name: value for name, value in values.reported.items() if math.isfinite(value)}
        line: dict[str, float | None] = {
            **numbers,
            "tokens_per_second": round(speed, 1),
            "padding_fraction": padding_fraction,
            "peak_memory_bytes": peak_memory_bytes(self._world.device),
            **({} if numbers["loss"] is None else finite),
        }
        if self._peak is not None:
            line["mfu"] = round(values.flops / (values.seconds * self._peak * self._world.size), 4)
        self._write({"step": step, **line})
        padding = f", {padding_fraction:.0%} padding" if self._bar is not None else ""
        is_due = values.is_last or step % self._log_every == 0
        self._show(step, f"{text}, {speed:.0f} tokens/s{padding}", is_due, is_skipped=numbers["loss"] is None)
        if is_due:
            self._loggers.log_dict({name: value for name, value in line.items() if value is not None}, step)

    def _write(self, line: Mapping[str, float | None]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _show(self, step: int, text: str, is_due: bool, *, is_skipped: bool) -> None:
        if self._bar is not None:
            if is_skipped:
                self.note(f"step {step}: {text}")
            self._bar.set_postfix_str(", ".join(filter(None, [text, self._validation])), refresh=False)
            self._bar.update()
        elif is_skipped or is_due:
            print(f"step {step}/{max(step, self._total_steps)}: {text}", file=sys.stderr, flush=True)


def _quote(text: str, longest: int) -> str:
    """Return text as one quoted line, truncated to a number of characters."""
    line = " ".join(text.split())
    return f"“{line}”" if len(line) <= longest else f"“{line[: longest - 1].rstrip()}…”"


def remove_later_lines(path: Path, step: int) -> None:
    """Remove the lines of a run's file that belong to steps after `step` or are incomplete."""
    if not path.is_file():  # a device such as /dev/full would be endless
        return
    # `splitlines` would also split at Unicode separators within a string.
    with path.open(encoding="utf-8", newline="\n") as file:
        remaining = [line for line in file if _is_up_to(line, step)]
    write_text(path, "".join(remaining))


def _is_up_to(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
