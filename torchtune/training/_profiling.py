"""Profile steps with torch.profiler."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define, field

from torchtune.config import above, at_least
from torchtune.distributed import World
from torchtune.runs import RunFolder

if TYPE_CHECKING:
    from torch.profiler import profile

_logger = logging.getLogger(__name__)


@define(kw_only=True)
class Profiling:
    """Profile some steps with torch.profiler, and write the traces to `profile/` in the run's folder."""

    first_step: int = field(default=3, validator=at_least(2))
    """The first recorded step, counted from the start or resumption of the run; earlier steps are warm-up."""
    n_steps: int = field(default=2, validator=above(0))
    """Number of recorded steps."""
    memory: bool = False
    """Also record memory allocations."""
    stacks: bool = False
    """Also record Python stacks, which slows steps down and makes traces large."""


@contextmanager
def profile_steps(section: Profiling | None, output_dir: str, world: World) -> Iterator[Callable[[], None]]:
    """Profile the steps that a config selects; the caller must call the yielded function after every step.

    Each rank writes `profile/rank_<r>.json`, for https://ui.perfetto.dev or chrome://tracing, and
    `profile/rank_<r>.txt`, a table of operators sorted by time.

    Args:
        section: The config section; None: nothing is recorded.
        output_dir: The run's folder.
        world: The ranks of this run.
    """
    if section is None:
        yield lambda: None
        return
    from torch.profiler import ProfilerActivity, profile, schedule

    traces: list[bool] = []
    folder = RunFolder(output_dir).profile
    kinds = [ProfilerActivity.CPU]
    if world.device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with profile(
        activities=kinds,
        schedule=schedule(wait=section.first_step - 2, warmup=1, active=section.n_steps, repeat=1),
        on_trace_ready=lambda trace: traces.append(_write(trace, folder, world)),
        profile_memory=section.memory,
        with_stack=section.stacks,
        acc_events=True,
    ) as profiler:
        yield profiler.step
    if not traces and world.is_main:
        _logger.warning(
            "no profile was written: the run ended before it had recorded %d steps from profiling.first_step=%d",
            section.n_steps,
            section.first_step,
        )


def _write(trace: "profile", folder: Path, world: World) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"rank_{world.rank}"
    trace.export_chrome_trace(str(folder / f"{name}.json"))
    order = "self_cuda_time_total" if world.device.type == "cuda" else "self_cpu_time_total"
    table = trace.key_averages().table(sort_by=order, row_limit=40)
    (folder / f"{name}.txt").write_text(table, encoding="utf-8")
    if world.is_main:
        _logger.warning("profile written to %s", folder)
    return True
