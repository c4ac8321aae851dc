"""The table of `tune plot`'s picture, which is its legend too, so that none covers a curve."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torchtune.plots._image_fonts import writable
from torchtune.plots._run import PlottedRun
from torchtune.plots._table import HEADS, NOTHING, leaves_that_differ, row_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 20
_GAP = 20
_SWATCH = 34
_SIZE = 10
_LONGEST = 26
"""Characters of a cell; a longer one loses its beginning, which paths and keys have in common."""
_OF_ALL = (1, 2, 3, 6)
"""Columns of a run's row that are shown beside its name and what differs; the others are panels."""


def draw_table(axes: "Axes", canvas: Any, runs: Sequence[PlottedRun], looks: Sequence[Any]) -> None:
    """Draw a row for each run, with as many of the leaves that differ as there is room for.

    Args:
        axes: Are filled; their size is taken to be final.
        canvas: Measures text.
        runs: A row each.
        looks: How the curves of each are drawn: `colour` and `dash`.
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
    for row, look in enumerate(looks, start=1):
        axes.plot(
            [0, _SWATCH - 10], [_ROW * (row + 0.5)] * 2, color=look.colour, linestyle=look.dash, linewidth=2
        )
    axes.plot([0, box.width], [_ROW, _ROW], color="#c9ced4", linewidth=0.8)
    if n_drawn < len(columns):
        foot = f"{len(columns) - n_drawn} more differ; the page has all"
        axes.text(0, _ROW * (len(runs) + 1.6), foot, va="center", fontsize=_SIZE - 1, color="#4a5058")


def _columns(runs: Sequence[PlottedRun]) -> Iterator[list[str]]:
    rows = [row_of(run) for run in runs]
    yield ["run", *(_short(row[0]) for row in rows)]
    for at in _OF_ALL:
        if any(row[at] != NOTHING for row in rows):
            yield [HEADS[at], *(row[at] for row in rows)]
    for leaf in leaves_that_differ(runs):
        yield [_short(leaf.path), *map(_short, leaf.values)]


def _short(text: str) -> str:
    known = writable(text)
    return known if len(known) <= _LONGEST else f"…{known[1 - _LONGEST :]}"


def _width(canvas: Any, text: str) -> float:
    from matplotlib.font_manager import FontProperties

    width, _, _ = canvas.get_renderer().get_text_width_height_descent(text, FontProperties(size=_SIZE), False)  # noqa: FBT003
    return float(width)
