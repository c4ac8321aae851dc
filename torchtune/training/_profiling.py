"""Where the time of a step goes: traces by torch.profiler."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define, field

from torchtune.config import above, at_least
from torchtune.runs import RunFolder
from torchtune.training._world import World

if TYPE_CHECKING:
    from torch.profiler import profile

_logger = logging.getLogger(__name__)


@define(kw_only=True)
class Profiling:
    """Record some steps by torch.profiler, in `profile/` of the run's folder."""

    first_step: int = field(default=3, validator=at_least(2))
    """The first one that is recorded, counted from this start of the run; those before warm everything up."""
    n_steps: int = field(default=2, validator=above(0))
    """How many are recorded."""
    memory: bool = False
    """Record what is allocated and freed as well."""
    stacks: bool = False
    """Record the lines of Python that called; slows the steps down, and makes traces large."""


@contextmanager
def profiled(section: Profiling | None, output_dir: str, world: World) -> Iterator[Callable[[], None]]:
    """Record what happens within, as a config says; the function that is given is called behind every step.

    Each rank writes `profile/rank_<r>.json`, which https://ui.perfetto.dev and chrome://tracing show, and
    `profile/rank_<r>.txt`, the operators by the time that they took.

    Args:
        section: The config's; None: nothing is recorded.
        output_dir: The run's folder.
        world: This process and its fellows.
    """
    if section is None:
        yield lambda: None
        return
    from torch.profiler import ProfilerActivity, profile, schedule

    written: list[bool] = []
    folder = RunFolder(output_dir).profile
    kinds = [ProfilerActivity.CPU]
    if world.device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with profile(
        activities=kinds,
        schedule=schedule(wait=section.first_step - 2, warmup=1, active=section.n_steps, repeat=1),
        on_trace_ready=lambda found: written.append(_write(found, folder, world)),
        profile_memory=section.memory,
        with_stack=section.stacks,
        acc_events=True,
    ) as profiler:
        yield profiler.step
    if not written and world.is_main:
        _logger.warning(
            "no step was recorded: the run ended before the %d steps from profiling.first_step=%d on",
            section.n_steps,
            section.first_step,
        )


def _write(found: "profile", folder: Path, world: World) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"rank_{world.rank}"
    found.export_chrome_trace(str(folder / f"{name}.json"))
    order = "self_cuda_time_total" if world.device.type == "cuda" else "self_cpu_time_total"
    table = found.key_averages().table(sort_by=order, row_limit=40)
    (folder / f"{name}.txt").write_text(table, encoding="utf-8")
    if world.is_main:
        _logger.warning("the profile of these steps is in %s", folder)
    return True
