"""Our side: `tune` in this process, with the clock read behind every step."""

import time
from typing import Any

from benchmarks.training_sides.measured import order, peak_bytes, report


def main() -> None:
    from torchtune.cli._heap import steady_heap

    steady_heap()  # as `tune` does
    given = order()
    from torchtune import training
    from torchtune.cli import main as tune

    times, losses, tokens = [], [], []
    log = training.Metrics.log

    def timed(metrics: training.Metrics, step: int, batches: Any, **values: Any) -> None:
        log(metrics, step, batches, **values)
        times.append(time.time())
        losses.append(values["loss"])
        tokens.append([length for batch in batches for length in batch.lengths])

    training.Metrics.log = timed  # type: ignore[method-assign]
    if tune(given["words"]):
        raise SystemExit(1)
    report(times, losses, peak_bytes(), given, tokens)


if __name__ == "__main__":
    main()
