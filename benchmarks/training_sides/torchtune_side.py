"""The torchtune side: `tune` in this process; every step is timed."""

import time
from typing import Any

from benchmarks.process_memory import peak_bytes, resident_bytes
from benchmarks.training_sides.measurement import Measurement, ModelSizes, build_measurement, matmul_flops


def train(
    command_time: float, args: list[str], *, dtype: str, sizes: ModelSizes, replacement: str
) -> Measurement:
    """Run `tune`.

    Args:
        command_time: Start time of this process (seconds since the epoch).
        args: Arguments of `tune`.
        dtype: Precision of the timed matrix products.
        sizes: Sizes of the timed matrix products.
        replacement: A key of `REPLACEMENTS`; empty: nothing is replaced.
    """
    from torchtune.internals import limit_heap_growth

    limit_heap_growth()  # as `tune` does
    from torchtune import training
    from torchtune.cli import main as tune
    from torchtune.placement import Placement

    end_times, losses, widths = list[float](), list[float](), list[int]()
    lengths: list[list[int]] = []
    log = training.Metrics.log

    def timed(metrics: training.Metrics, values: training.StepValues) -> None:
        log(metrics, values)
        end_times.append(time.time())
        losses.append(values.loss)
        lengths.append([length for batch in values.micro_batches for length in batch.lengths])
        widths.extend(batch.tokens.shape[1] for batch in values.micro_batches)

    place, resident_before = Placement.place, []

    def record_and_place(section: Placement, model: Any, *args: Any, **kwargs: Any) -> None:
        resident_before.append(resident_bytes())
        place(section, model, *args, **kwargs)
        if replacement:
            from benchmarks.training_sides.replacements import REPLACEMENTS

            REPLACEMENTS[replacement](model)

    training.Metrics.log = timed  # type: ignore[assignment, method-assign]  # only in this process
    Placement.place = record_and_place  # type: ignore[assignment, method-assign]  # only in this process
    if tune(args):
        raise SystemExit(1)
    peak = peak_bytes()
    measurement = build_measurement(
        command_time,
        end_times,
        losses=losses,
        lengths=lengths,
        peak=peak,
        matmul=matmul_flops(dtype, sizes),
    )
    estimate = estimated_bytes(args, max(widths))
    return {**measurement, "estimate": estimate, "peak_without_imports": peak - resident_before[0]}


def estimated_bytes(args: list[str], width: int) -> int:
    """Return the estimate of `tune validate --memory` for batches of the given width (bytes)."""
    from torchtune.cli._validate import validate_config
    from torchtune.runs.command_line import RUN_OPTIONS, parse_command_line

    is_packed = any(arg.startswith("loading.packing.length=") for arg in args)
    length = f"loading.packing.length={width}" if is_packed else f"dataset.max_seq_len={width}"
    needs = validate_config(parse_command_line([*args, length], RUN_OPTIONS))
    return needs["peak"] if needs else 0
