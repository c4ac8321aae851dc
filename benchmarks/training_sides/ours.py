"""Our side: `tune` in this process, with the clock read behind every step."""

import time
from typing import Any

from benchmarks.training_sides.measured import order, peak_bytes, report, resident_bytes


def main() -> None:
    from torchtune.internals import steady_heap

    steady_heap()  # as `tune` does
    given = order()
    from torchtune import training
    from torchtune.cli import main as tune

    times, losses, tokens, widths = [], [], [], []
    log = training.Metrics.log

    def timed(metrics: training.Metrics, values: training.StepValues) -> None:
        log(metrics, values)
        times.append(time.time())
        losses.append(values.loss)
        tokens.append([length for batch in values.micro_batches for length in batch.lengths])
        widths.extend(batch.tokens.shape[1] for batch in values.micro_batches)

    place, before = training.Placement.place, []

    def placed(section: training.Placement, model: Any, *placing: Any, **settings: Any) -> None:
        before.append(resident_bytes())
        place(section, model, *placing, **settings)
        if given["instead"]:
            from benchmarks.training_sides.instead import INSTEAD

            INSTEAD[given["instead"]](model)

    training.Metrics.log = timed  # type: ignore[method-assign]
    training.Placement.place = placed  # type: ignore[method-assign]
    if tune(given["words"]):
        raise SystemExit(1)
    peak = peak_bytes()
    report(
        times,
        losses,
        peak,
        given,
        tokens,
        planned=planned(given["words"], max(widths)),
        beyond=peak - before[0],
    )


def planned(words: list[str], width: int) -> int:
    """Return what `tune validate --memory` says of the run with rows as wide as the widest it had."""
    from torchtune.cli._validate import needs_of
    from torchtune.runs.command_line import RUN_OPTIONS, read_words

    is_packed = any(word.startswith("loading.packing.length=") for word in words)
    length = f"loading.packing.length={width}" if is_packed else f"dataset.max_seq_len={width}"
    needs = needs_of(read_words([*words, length], RUN_OPTIONS))
    return needs["peak"] if needs else 0


if __name__ == "__main__":
    main()
