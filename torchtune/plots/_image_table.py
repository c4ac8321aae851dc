"""Draw the table in the image of `tune plot`, which is also the legend, so that a legend does not cover curves."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torchtune.plots._image_fonts import replace_missing_characters
from torchtune.plots._run import PlottedRun
from torchtune.plots._table import HEADERS, NO_VALUE, differing_leaves, row_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 20
_GAP = 20
_SWATCH = 34
_SIZE = 10
_LONGEST = 26
"""Maximum number of characters in a cell. Longer text is truncated at the start, which rows often have in common."""
_SHOWN_COLUMNS = (1, 2, 3, 6)
"""Columns of `row_of` to show in addition to the run's name and the differing fields; other columns have panels."""


def draw_table(axes: "Axes", canvas: Any, runs: Sequence[PlottedRun], styles: Sequence[Any]) -> None:
    """Draw a table with a row for each run, and as many of the differing fields as fit.

    Args:
        axes: The axes to fill; their size must be final.
        canvas: The canvas that measures text.
        runs: The runs, one per row of the table.
        styles: The styles of the runs' curves: `colour` and `dash`.
    """
    box = axes.get_window_extent()
    axes.set_axis_off()
    axes.set(xlim=(0, box.width), ylim=(box.height, 0))
    columns = list(_columns(runs))
    left = 0.0
    n_drawn = 0
    for number, column in enumerate(columns):
        start = left + (_SWATCH if number == 0 else 0)
        width = max(_width(canvas, cell) for cell in column)
        if start + width > box.width:
            break
        for row, cell in enumerate(column):
            colour = "#4a5058" if row == 0 else "#1b1f24"
            axes.text(start, _ROW * (row + 0.5), cell, va="center", fontsize=_SIZE, color=colour)
        left = start + width + _GAP
        n_drawn += 1
    for row, style in enumerate(styles, start=1):
        axes.plot(
            [0, _SWATCH - 10], [_ROW * (row + 0.5)] * 2, color=style.colour, linestyle=style.dash, linewidth=2
        )
    axes.plot([0, box.width], [_ROW, _ROW], color="#c9ced4", linewidth=0.8)
    if n_drawn < len(columns):
        footer = f"{len(columns) - n_drawn} more fields differ; the HTML page lists all fields"
        axes.text(0, _ROW * (len(runs) + 1.6), footer, va="center", fontsize=_SIZE - 1, color="#4a5058")


def _columns(runs: Sequence[PlottedRun]) -> Iterator[list[str]]:
    rows = [row_of(run) for run in runs]
    yield ["run", *(_short(row[0]) for row in rows)]
    for column in _SHOWN_COLUMNS:
        if any(row[column] != NO_VALUE for row in rows):
            yield [HEADERS[column], *(row[column] for row in rows)]
    for leaf in differing_leaves(runs):
        yield [_short(leaf.path), *map(_short, leaf.values)]


def _short(text: str) -> str:
    printable = replace_missing_characters(text)
    return printable if len(printable) <= _LONGEST else f"…{printable[1 - _LONGEST :]}"


def _width(canvas: Any, text: str) -> float:
    from matplotlib.font_manager import FontProperties

    width, _, _ = canvas.get_renderer().get_text_width_height_descent(text, FontProperties(size=_SIZE), False)  # noqa: FBT003
    return float(width)
