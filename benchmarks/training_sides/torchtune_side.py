"""Our side: `tune` in this process, with the clock read after every step."""

import time
from typing import Any

from benchmarks.process_memory import peak_bytes, resident_bytes
from benchmarks.training_sides.measurement import Measurement, ModelSizes, matmul_flops, measurement


def train(
    command_time: float, words: list[str], *, dtype: str, sizes: ModelSizes, replacement: str
) -> Measurement:
    """Run `tune`.

    Args:
        command_time: When this process was started (seconds since the epoch).
        words: The words of the call.
        dtype: The precision in which matrix products are timed.
        sizes: Their sizes.
        replacement: A key of `REPLACEMENTS`; empty: nothing is replaced.
    """
    from torchtune.internals import limit_heap_growth

    limit_heap_growth()  # as `tune` does
    from torchtune import training
    from torchtune.cli import main as tune

    end_times, losses, widths = list[float](), list[float](), list[int]()
    lengths: list[list[int]] = []
    log = training.Metrics.log

    def timed(metrics: training.Metrics, values: training.StepValues) -> None:
        log(metrics, values)
        end_times.append(time.time())
        losses.append(values.loss)
        lengths.append([length for batch in values.micro_batches for length in batch.lengths])
        widths.extend(batch.tokens.shape[1] for batch in values.micro_batches)

    place, resident_before = training.Placement.place, []

    def record_and_place(section: training.Placement, model: Any, *args: Any, **kwargs: Any) -> None:
        resident_before.append(resident_bytes())
        place(section, model, *args, **kwargs)
        if replacement:
            from benchmarks.training_sides.replacements import REPLACEMENTS

            REPLACEMENTS[replacement](model)

    training.Metrics.log = timed  # type: ignore[assignment, method-assign]  # of this process only
    training.Placement.place = record_and_place  # type: ignore[assignment, method-assign]  # of this process only
    if tune(words):
        raise SystemExit(1)
    peak = peak_bytes()
    steps = measurement(
        command_time,
        end_times,
        losses=losses,
        lengths=lengths,
        peak=peak,
        matmul=matmul_flops(dtype, sizes),
    )
    planned = planned_bytes(words, max(widths))
    return {**steps, "planned": planned, "beyond_imports": peak - resident_before[0]}


def planned_bytes(words: list[str], width: int) -> int:
    """Return what `tune validate --memory` says of the run with rows as wide as the widest it had."""
    from torchtune.cli._validate import validate_config
    from torchtune.runs.command_line import RUN_OPTIONS, read_words

    is_packed = any(word.startswith("loading.packing.length=") for word in words)
    length = f"loading.packing.length={width}" if is_packed else f"dataset.max_seq_len={width}"
    needs = validate_config(read_words([*words, length], RUN_OPTIONS))
    return needs["peak"] if needs else 0
