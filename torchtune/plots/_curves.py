"""What `tune plot` draws: metrics as curves with few enough points to draw, from which no spike is lost."""

from collections.abc import Iterator, Sequence
from math import fsum
from typing import Any

from attrs import frozen

from torchtune.plots._run import PlottedRun

Series = Sequence[tuple[int, float]]
"""Steps, rising, and values."""


@frozen(kw_only=True)
class Panel:
    """A diagram of one metric over the steps."""

    metric: str
    """Its name in `metrics.jsonl`."""
    title: str
    unit: str
    scale: float = 1.0
    """What values are multiplied by, to be of the unit."""
    is_noisy: bool = True
    """Whether a mean over steps is drawn too."""
    marks: str = ""
    """Another metric, of the same unit, whose values are drawn as points."""
    is_common: bool = True
    """Whether every run reports it; otherwise it is a term or metric of the run's recipe."""


_LEAST, _GREATEST = 1e-38, 1e38
"""About those of a float32."""

PANELS = (
    Panel(metric="loss", title="Loss", unit="nats a token", marks="validation_loss"),
    Panel(metric="lr", title="Learning rate", unit="", is_noisy=False),
    Panel(metric="grad_norm", title="Gradient norm", unit="L2, before clipping"),
    Panel(metric="tokens_per_second", title="Speed", unit="useful tokens a second"),
    Panel(metric="peak_memory_bytes", title="Peak memory", unit="GiB", scale=2**-30, is_noisy=False),
    Panel(metric="mfu", title="Model FLOPs utilization", unit="%", scale=100),
)


_UNDRAWN = {"step", "padding_share", "validation_targets"}
"""Numbers of `metrics.jsonl` that have no panel."""
_VALIDATION = "validation_"
"""What the name of a validation's number begins with."""


@frozen
class Column:
    """The mean of a metric over neighbouring steps, so many as are as wide as a pixel."""

    step: float
    """The middle of those that have a value."""
    mean: float
    count: int


@frozen
class Curve:
    """A metric of a run, in few enough points to draw."""

    points: list[tuple[int, float]]
    columns: list[Column]
    """One for each point where there are few."""


def panels_of(runs: Sequence[PlottedRun]) -> list[Panel]:
    """Return the panels of which some run has a value: the loss in any case, what all runs report, then the rest.

    The rest are the terms and metrics of recipes, and numbers that recipes pass to `Run.update`, by name.
    """
    panels = [*PANELS, *(_panel_of(name) for name in _names_of_recipes(runs))]
    return [panel for panel in panels if panel.metric == "loss" or _has_values(runs, panel)]


def _names_of_recipes(runs: Sequence[PlottedRun]) -> list[str]:
    """Return the names of numbers that only some recipes report, in the order in which they appear."""
    names = dict.fromkeys(
        name.removeprefix(_VALIDATION)
        for run in runs
        for line in run.metrics.lines
        for name in line
        if name not in _UNDRAWN
    )
    common = {panel.metric for panel in PANELS}
    return [name for name in names if name not in common]


def _panel_of(name: str) -> Panel:
    return Panel(metric=name, title=name, unit="", marks=_VALIDATION + name, is_common=False)


def _has_values(runs: Sequence[PlottedRun], panel: Panel) -> bool:
    names = [panel.metric, *([] if panel.is_common else [panel.marks])]
    return any(run.metrics.series(name) for run in runs for name in names)


def curve_of(series: Series, scale: float, n_columns: int) -> Curve:
    """Return a metric as it is drawn.

    Args:
        series: Steps and values. What a float32 cannot hold is drawn at the edge of what it can.
        scale: What values are multiplied by.
        n_columns: How many pixels it is wide. Where there are more than two points a column, only the first and the
            last of all and the least and the greatest of each column are kept; columns are equally wide.
    """
    scaled = [(step, _bounded(value * scale)) for step, value in series]
    if len(scaled) <= 2 * n_columns:
        return Curve(scaled, [Column(step, value, 1) for step, value in scaled])
    buckets = list(_buckets(scaled, n_columns))
    return Curve(list(_extremes(buckets)), [_mean(bucket) for bucket in buckets])


def _bounded(value: float) -> float:
    """Return a value that no axis overflows at: axes compute with powers and differences of their ends."""
    return max(-_GREATEST, min(_GREATEST, value)) if abs(value) >= _LEAST else 0.0


def _buckets(series: Series, n_columns: int) -> Iterator[list[tuple[int, float]]]:
    """Yield the points of each column that has some."""
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
        least = min(bucket, key=lambda point: point[1])
        greatest = max(bucket, key=lambda point: point[1])
        ends = {first, last} & {bucket[0], bucket[-1]}
        yield from sorted({least, greatest} | ends)


def _mean(bucket: Sequence[tuple[int, float]]) -> Column:
    n = len(bucket)
    return Column((bucket[0][0] + bucket[-1][0]) / 2, fsum(value / n for _, value in bucket), n)


def smoothed(columns: Sequence[Column], n_steps: int) -> list[tuple[float, float]]:
    """Return the mean of the steps around each column's middle: `n_steps // 2` before it, and as many behind it.

    The nearest counts most and the others less in proportion to their distance, so that a spike makes a tent and no
    box. It lags behind nothing, so a validation's loss can be compared with it. Near the ends there are fewer steps;
    one without a value, such as a skipped one, counts for nothing.
    """
    half = n_steps // 2
    low = high = 0
    found = []
    for column in columns:
        while columns[low].step < column.step - half:
            low += 1
        while high < len(columns) and columns[high].step <= column.step + half:
            high += 1
        window = columns[low:high]
        weights = [each.count * (half + 1 - abs(each.step - column.step)) for each in window]
        total = fsum(weights)
        # Each is divided first, so that values near the greatest float have a mean too.
        mean = fsum(each.mean * (weight / total) for each, weight in zip(window, weights, strict=True))
        found.append((column.step, mean))
    return found


def usual_smoothing(runs: Sequence[PlottedRun]) -> int:
    """Return an odd number of steps: a twenty-fifth of the longest run, or up to 15 where that is too few for noise."""
    n = longest(runs)
    return max(n // 25, min(15, n // 5)) // 2 * 2 + 1


def longest(runs: Sequence[PlottedRun]) -> int:
    """Return the last step of all runs; 0 where there is none."""
    return max((line["step"] for run in runs for line in run.metrics.lines), default=0)


def has_decades(curves: Sequence[Any]) -> bool:
    """Tell whether values are so far apart that only a logarithmic axis shows them all."""
    values = [value for curve in curves for _, value in curve.points if value > 0]
    return bool(values) and max(values) >= 100 * min(values)
