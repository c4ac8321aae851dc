"""Draw the image of `tune plot`: the loss above a table of the runs, with the other common metrics on the right.

Panels of recipe metrics are between the loss and the table, two per row.
"""

import io
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from torchtune.plots._curves import (
    Curve,
    Panel,
    curve_of,
    last_step,
    moving_average,
    needs_log_axis,
    panels_of,
)
from torchtune.plots._image_table import draw_table
from torchtune.plots._run import PlottedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 1600, 1000
"""Size of the image in pixels; it is taller with many runs in the table, or with recipe metrics."""
PANEL_HEIGHT = 210
"""Height in pixels of a row of panels for recipe metrics, including margins."""
COLOURS = ("#0072b2", "#d55e00", "#10a37f", "#4b1260", "#a284d2", "#6b4a10")
"""Colours that can be distinguished on white with any kind of colour blindness: the minimum distance is 0.098 in OKLab
under the matrices of Machado et al. (2009), and the contrast ratio of each colour with white is at least 3:1."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
"""Line styles; runs beyond the number of colours reuse the colours with the next style."""
_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.edgecolor": "#8a9099",
    "axes.labelcolor": "#4a5058",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "xtick.color": "#8a9099",
    "ytick.color": "#8a9099",
    "xtick.labelcolor": "#4a5058",
    "ytick.labelcolor": "#4a5058",
    "text.parse_math": False,
}


@frozen
class CurveStyle:
    """The style of a run's curves."""

    colour: str
    dash: Any
    """A matplotlib line style."""


def curve_styles(n: int) -> list[CurveStyle]:
    """Return `n` styles; when all colours are used, they repeat with the next line style."""
    return [CurveStyle(COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]) for i in range(n)]


def image_of(runs: Sequence[PlottedRun], smooth: int) -> bytes:
    """Return the plot of runs as a PNG.

    Args:
        runs: At least one run.
        smooth: Number of steps in the moving average, which is drawn as a thick curve.
    """
    # By default, matplotlib logs the fonts that it finds, and warns about a read-only home folder.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from torchtune.plots._image_fonts import families

    with mpl.rc_context():
        mpl.rcdefaults()  # ignore the user's matplotlibrc
        mpl.rcParams.update({**_STYLE, "font.family": families()})
        rows = 20 * len(runs) + 60
        panels = panels_of(runs)
        n_panel_rows = math.ceil(sum(not panel.is_common for panel in panels) / 2)
        height = max(HEIGHT, rows + 560) + PANEL_HEIGHT * n_panel_rows
        figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        loss_height = height - rows - PANEL_HEIGHT * n_panel_rows
        _draw_panels(figure, panels, runs, smooth, height, loss_height)
        table = _add_axes(figure, (72, height - rows + 6, 1010, rows - 6), height)
        draw_table(table, canvas, runs, curve_styles(len(runs)))
        with io.BytesIO() as file:
            figure.savefig(file, format="png")
            return file.getvalue()


def _draw_panels(  # noqa: PLR0917 - the arguments describe one figure
    figure: Any,
    panels: Sequence[Panel],
    runs: Sequence[PlottedRun],
    smooth: int,
    height: int,
    loss_height: int,
) -> None:
    """Draw the loss, the recipe metrics below it, and the other metrics in a column on the right."""
    loss, *others = [panel for panel in panels if panel.is_common]
    _draw(_add_axes(figure, (72, 48, 950, loss_height - 48 - 66), height), loss, runs, smooth)
    panel_height = (height - 20) / max(1, len(others))
    for number, panel in enumerate(others):
        is_last = number == len(others) - 1
        bottom = 60 if is_last else 44
        axes = _add_axes(figure, (1130, 48 + number * panel_height, 446, panel_height - bottom - 24), height)
        _draw(axes, panel, runs, smooth, is_small=True, has_step_label=is_last)
    for number, panel in enumerate(panel for panel in panels if not panel.is_common):
        left, top = 72 + 504 * (number % 2), loss_height + 12 + PANEL_HEIGHT * (number // 2)
        axes = _add_axes(figure, (left, top, 446, PANEL_HEIGHT - 68), height)
        _draw(axes, panel, runs, smooth, is_small=True, has_step_label=False)


def _add_axes(figure: Any, box: tuple[float, float, float, float], height: int) -> "Axes":
    """Add axes in a box (left, top, width, height), in pixels from the top left corner of the figure."""
    left, top, width, box_height = box
    bounds = (left / WIDTH, 1 - (top + box_height) / height, width / WIDTH, box_height / height)
    axes: Axes = figure.add_axes(bounds)
    return axes


def _draw(
    axes: "Axes",
    panel: Panel,
    runs: Sequence[PlottedRun],
    smooth: int,
    *,
    is_small: bool = False,
    has_step_label: bool = True,
) -> None:
    n_columns = 450 if is_small else 950
    curves = [curve_of(run.metrics.series(panel.metric), panel.scale, n_columns) for run in runs]
    styles = curve_styles(len(runs))
    faint = 0.32 if len(runs) <= 8 else 0.15
    for number, (curve, style) in enumerate(zip(curves, styles, strict=True)):
        order = 3 + (len(runs) - number) / len(runs)  # the first run is on top
        _draw_curve(axes, curve, style, smooth if panel.is_noisy else 1, order=order, faint=faint)
    if panel.marks:
        for run, style in reversed(list(zip(runs, styles, strict=True))):
            marks = curve_of(run.metrics.series(panel.marks), panel.scale, n_columns).points
            _draw_marks(axes, marks, style, 6.5 if len(runs) < 8 else 4)
    _label(axes, panel, runs, has_step_label=has_step_label)
    is_log = panel.metric == "grad_norm" and needs_log_axis(curves)
    _scale(axes, is_log=is_log, n_ticks=5 if is_small else 9)
    axes.set_xlim(0, max(1, last_step(runs)) * 1.01)
    if not any(curve.points for curve in curves):
        centred = {"ha": "center", "va": "center", "color": "#4a5058"}
        axes.text(0.5, 0.5, "no value yet", centred, transform=axes.transAxes)


def _label(axes: "Axes", panel: Panel, runs: Sequence[PlottedRun], *, has_step_label: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    has_marks = bool(panel.marks) and any(run.metrics.series(panel.marks) for run in runs)
    unit = "; ".join(filter(None, [panel.unit, "points: validation" if has_marks else ""]))
    title = axes.set_title(panel.title)
    text: dict[str, Any] = {"va": "bottom", "color": "#4a5058", "fontsize": 10}
    axes.annotate(unit, (1, 0), xycoords=title, xytext=(9, 0), textcoords="offset points", **text)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.tick_params(labelsize=9.5, labelbottom=True)
    if has_step_label:
        axes.set_xlabel("step")


def _scale(axes: "Axes", *, is_log: bool, n_ticks: int) -> None:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=n_ticks, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: tick_label(value))


def tick_label(value: float) -> str:
    """Format a number as an axis label: `6,000`, `0.25`, `2e-5`.

    >>> tick_label(0.1 + 0.2), tick_label(2e-5)
    ('0.3', '2e-5')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.10g}"
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _draw_curve(
    axes: "Axes", curve: Curve, style: CurveStyle, smooth: int, *, order: float, faint: float
) -> None:
    n = len(curve.points)
    if smooth > 1 and n > 1:
        _draw_line(axes, curve.points, style, linestyle="-", linewidth=0.7, alpha=faint, zorder=order - 1)
        _draw_line(axes, moving_average(curve.columns, smooth), style, linewidth=1.9, zorder=order)
    elif n > 1:
        _draw_line(axes, curve.points, style, linewidth=1.5, zorder=order - 1)
    elif n == 1:
        _draw_line(axes, curve.points, style, marker="o", markersize=5, clip_on=False, zorder=order - 1)


def _draw_marks(axes: "Axes", series: Sequence[tuple[int, float]], style: CurveStyle, size: float) -> None:
    if series:
        size = size if len(series) < 60 else 3.5
        edge = {
            "markeredgecolor": "white",
            "markeredgewidth": 1,
            "clip_on": False,
        }  # a point may be on the axis
        _draw_line(axes, series, style, linewidth=0.8, marker="o", markersize=size, zorder=5, **edge)


def _draw_line(
    axes: "Axes", points: Sequence[tuple[float, float]], style: CurveStyle, **options: Any
) -> None:
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, color=style.colour, **{"linestyle": style.dash, **options})
