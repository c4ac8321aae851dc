"""Reduce metrics to curves with few points, without losing spikes, for `tune plot`."""

from collections.abc import Iterator, Sequence
from math import fsum
from typing import Any

from attrs import frozen

from torchtune.plots._run import PlottedRun

Series = Sequence[tuple[int, float]]
"""Pairs of a step and a value, ordered by step."""


@frozen(kw_only=True)
class Panel:
    """A plot of one metric over the steps."""

    metric: str
    """The metric's name in `metrics.jsonl`."""
    title: str
    unit: str
    scale: float = 1.0
    """The factor that converts values to the unit."""
    is_noisy: bool = True
    """Whether a moving average is also drawn."""
    marks: str = ""
    """A second metric with the same unit, whose values are drawn as points."""
    is_common: bool = True
    """Whether every run reports the metric; otherwise, it is a loss term or metric of a recipe."""


_SMALLEST, _LARGEST = 1e-38, 1e38
"""The approximate range of float32."""

PANELS = (
    Panel(metric="loss", title="Loss", unit="nats per token", marks="validation_loss"),
    Panel(metric="lr", title="Learning rate", unit="", is_noisy=False),
    Panel(metric="grad_norm", title="Gradient norm", unit="L2, before clipping"),
    Panel(metric="tokens_per_second", title="Speed", unit="useful tokens per second"),
    Panel(metric="peak_memory_bytes", title="Peak memory", unit="GiB", scale=2**-30, is_noisy=False),
    Panel(metric="mfu", title="Model FLOPs utilization", unit="%", scale=100),
)


_NOT_PLOTTED = {"step", "padding_fraction", "validation_targets"}
"""Entries of `metrics.jsonl` without a panel."""
_VALIDATION = "validation_"
"""Prefix of the names of validation metrics."""


@frozen
class Column:
    """The mean of a metric over the neighbouring steps that share a pixel column."""

    step: float
    """The midpoint of the first and last step with a value."""
    mean: float
    count: int


@frozen
class Curve:
    """A metric of a run, reduced to few points."""

    points: list[tuple[int, float]]
    columns: list[Column]
    """The means for smoothing; one column per point if there are few points."""


def panels_of(runs: Sequence[PlottedRun]) -> list[Panel]:
    """Return the loss panel and all panels for which any run has values: common metrics, then recipe metrics.

    Recipe metrics are a recipe's loss terms and metrics, and numbers passed to `Run.update`.
    """
    panels = [*PANELS, *(_panel_of(name) for name in _recipe_metrics(runs))]
    return [panel for panel in panels if panel.metric == "loss" or _has_values(runs, panel)]


def _recipe_metrics(runs: Sequence[PlottedRun]) -> list[str]:
    """Return the names of metrics that only some recipes report, in order of appearance."""
    names = dict.fromkeys(
        name.removeprefix(_VALIDATION)
        for run in runs
        for line in run.metrics.lines
        for name in line
        if name not in _NOT_PLOTTED
    )
    common = {panel.metric for panel in PANELS}
    return [name for name in names if name not in common]


def _panel_of(name: str) -> Panel:
    return Panel(metric=name, title=name, unit="", marks=_VALIDATION + name, is_common=False)


def _has_values(runs: Sequence[PlottedRun], panel: Panel) -> bool:
    names = [panel.metric, *([] if panel.is_common else [panel.marks])]
    return any(run.metrics.series(name) for run in runs for name in names)


def curve_of(series: Series, scale: float, n_columns: int) -> Curve:
    """Return the curve of a metric.

    Args:
        series: Steps and values. Values outside the range of float32 are clipped to it.
        scale: The factor by which the values are multiplied.
        n_columns: The width of the plot in pixels. If there are more than two points per column, the curve keeps only
            its first and last point, and the minimum and maximum of each column. Columns have equal widths.
    """
    scaled = [(step, _bounded(value * scale)) for step, value in series]
    if len(scaled) <= 2 * n_columns:
        return Curve(scaled, [Column(step, value, 1) for step, value in scaled])
    buckets = list(_buckets(scaled, n_columns))
    return Curve(list(_extremes(buckets)), [_mean(bucket) for bucket in buckets])


def _bounded(value: float) -> float:
    """Clip a value so that axes, which compute powers and differences of their limits, do not overflow."""
    return max(-_LARGEST, min(_LARGEST, value)) if abs(value) >= _SMALLEST else 0.0


def _buckets(series: Series, n_columns: int) -> Iterator[list[tuple[int, float]]]:
    """Yield the points of each non-empty column."""
    first = series[0][0]
    width = (series[-1][0] - first + 1) / n_columns
    bucket: list[tuple[int, float]] = []
    end = first + width
    for step, value in series:
        if step >= end and bucket:
            yield bucket
            bucket = []
            end = first + width * (int((step - first) / width) + 1)
        bucket.append((step, value))
    yield bucket


def _extremes(buckets: Sequence[list[tuple[int, float]]]) -> Iterator[tuple[int, float]]:
    first, last = buckets[0][0], buckets[-1][-1]
    for bucket in buckets:
        lowest = min(bucket, key=lambda point: point[1])
        highest = max(bucket, key=lambda point: point[1])
        ends = {first, last} & {bucket[0], bucket[-1]}
        yield from sorted({lowest, highest} | ends)


def _mean(bucket: Sequence[tuple[int, float]]) -> Column:
    n = len(bucket)
    return Column((bucket[0][0] + bucket[-1][0]) / 2, fsum(value / n for _, value in bucket), n)


def moving_average(columns: Sequence[Column], n_steps: int) -> list[tuple[float, float]]:
    """Return a centred moving average of columns, over `n_steps // 2` steps before and after each column's middle.

    Weights decrease linearly with the distance, so that a spike becomes a triangle, not a rectangle. The average does
    not lag, so it can be compared with the validation loss. Near the ends, the average includes fewer steps. Steps
    without a value, such as skipped steps, are ignored.
    """
    half = n_steps // 2
    low = high = 0
    averages = []
    for column in columns:
        while columns[low].step < column.step - half:
            low += 1
        while high < len(columns) and columns[high].step <= column.step + half:
            high += 1
        window = columns[low:high]
        weights = [c.count * (half + 1 - abs(c.step - column.step)) for c in window]
        total = fsum(weights)
        # Each weight is divided before the multiplication, so that the mean of very large values does not overflow.
        mean = fsum(c.mean * (weight / total) for c, weight in zip(window, weights, strict=True))
        averages.append((column.step, mean))
    return averages


def default_smoothing(runs: Sequence[PlottedRun]) -> int:
    """Return the default smoothing, an odd number of steps: 1/25 of the longest run, or up to 15 for short runs."""
    n = last_step(runs)
    return max(n // 25, min(15, n // 5)) // 2 * 2 + 1


def last_step(runs: Sequence[PlottedRun]) -> int:
    """Return the largest step of all runs; 0 if there are no steps."""
    return max((line["step"] for run in runs for line in run.metrics.lines), default=0)


def needs_log_axis(curves: Sequence[Any]) -> bool:
    """Return whether the values span at least two orders of magnitude, so that a logarithmic axis is needed."""
    values = [value for curve in curves for _, value in curve.points if value > 0]
    return bool(values) and max(values) >= 100 * min(values)
