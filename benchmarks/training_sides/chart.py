"""A bar chart of benchmarks/training.py's results: torchtune and TRL, with one panel per metric."""

from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

WIDTH, BAR, GAP, TOP, LEFT, PANEL = 860, 15, 12, 66, 190, 205
TORCHTUNE, TRL = "#0f766e", "#b8b2a7"
PANELS: list[tuple[str, Callable[[dict[str, Any]], float], str]] = [
    ("tokens per second", lambda result: result["tokens_per_second"], "{:.0f}"),
    ("peak memory, GiB", lambda result: result["peak"] / 2**30, "{:.2f}"),
    ("seconds to the first step", lambda result: result["start"], "{:.1f}"),
]


def draw_chart(cases: dict[str, dict[str, Any]]) -> str:
    """Return an SVG image of the cases, each of which has the results of "TRL" and "torchtune"."""
    group = 2 * BAR + GAP + 8
    height = TOP + group * len(cases) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(20, 26, "torchtune", 14, TORCHTUNE, bold=True),
        _text(104, 26, "and TRL, on the same rows", 14, "#6b6459"),
    ]
    for i, name in enumerate(cases):
        parts.append(_text(20, TOP + i * group + BAR + 5, name, 13, "#29251f"))
    for column, (title, value, template) in enumerate(PANELS):
        x = LEFT + column * (PANEL + 18)
        largest = max(value(result) for case in cases.values() for result in case.values())
        parts.append(_text(x, TOP - 14, title, 12, "#6b6459"))
        for i, case in enumerate(cases.values()):
            for i_library, (library, colour) in enumerate((("torchtune", TORCHTUNE), ("TRL", TRL))):
                y = TOP + i * group + i_library * (BAR + 1)
                length = (PANEL - 48) * value(case[library]) / largest
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>'
                )
                text = template.format(value(case[library]))
                parts.append(
                    _text(x + length + 5, y + BAR - 3, text, 12, "#29251f", bold=library == "torchtune")
                )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, size: int, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{weight}>{escape(text)}</text>'
