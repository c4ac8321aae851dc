"""Render the HTML page of `tune plot`: a self-contained file with a script, and the curves as JSON."""

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from torchtune.plots._curves import Curve, curve_of, last_step, needs_log_axis, panels_of
from torchtune.plots._run import PlottedRun
from torchtune.plots._samples import render_samples
from torchtune.plots._table import HEADERS, differing_leaves, row_of

N_COLOURS = 6
"""Number of colours in the style sheet (`--c0` to `--c5`). They can be distinguished with any kind of colour blindness:
the minimum distance in OKLab under the matrices of Machado et al. (2009) is 0.098 on the light page and 0.161 on the
dark page. Each colour has a contrast ratio of at least 3:1 with the background."""
DASHES = ("none", "7 3", "2 2.5", "9 2.5 2 2.5")
_POINTS = 40_000
"""Maximum number of points on a page, which keeps it below 2 MB."""
_NUMBERS = {"steps", "last loss", "tokens/s", "peak memory"}
"""Columns of numbers, which are right-aligned."""


def page_of(runs: Sequence[PlottedRun], smooth: int, image_files: Sequence[str] = ()) -> str:
    """Return the HTML page of runs.

    Args:
        runs: At least one run.
        smooth: Initial number of steps in the moving average, which is drawn as a thick curve.
        image_files: Names of images of the same curves in the same folder.
    """
    folder = Path(__file__).parent
    style, script = ((folder / f"_page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    title = escape(
        ", ".join(run.name for run in runs[:3]) + (f" and {len(runs) - 3} more" if runs[3:] else "")
    )
    notes = "".join(f"<p class=note>{escape(f'{r.name}: {note}')}" for r in runs for note in r.notes)
    hint = f"; see {escape(image_files[0])} in the same folder" if image_files else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style><h1>{title}</h1>{notes}"
        "<noscript><p class=note>The curves require JavaScript, which is disabled"
        f"{hint}. The tables work without it.</p></noscript>"
        '<div id="switches" class="switches"></div><div id="panels" class="panels"></div>'
        f"<h2>Runs</h2>{_render_runs(runs)}"
        f"{''.join(_render_differences(runs))}{''.join(render_samples(runs))}"
        f'<script id="data" type="application/json">{_json(page_data(runs, smooth))}</script>'
        f"<script>{script}</script></html>\n"
    )


def _policy(script: str) -> str:
    """Return a content security policy that allows only this page's script and styles, and no network access."""
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _json(data: Any) -> str:
    """Return JSON that is safe inside a script element even if its strings contain HTML."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_data(runs: Sequence[PlottedRun], smooth: int) -> dict[str, Any]:
    """Return the data for the script.

    Curves are lists of steps and values with seven digits, the precision of float32. Downsampled curves
    also have `columns`: the middle step, the mean value and the number of steps of each.
    """
    panels = panels_of(runs)
    n_columns = max(50, min(1000, _POINTS // (2 * len(panels) * len(runs))))
    scales = [(panel.metric, panel.scale) for panel in panels]
    scales += [(panel.marks, panel.scale) for panel in panels if panel.marks]
    curves = [
        {name: curve_of(run.metrics.series(name), scale, n_columns) for name, scale in scales} for run in runs
    ]
    return {
        "smooth": smooth,
        "first": 0,
        "last": max(1, last_step(runs)),
        "panels": [
            {
                "metric": panel.metric,
                "title": panel.title,
                "unit": panel.unit,
                "noisy": panel.is_noisy,
                "marks": panel.marks,
                "log": panel.metric == "grad_norm" and needs_log_axis([c["grad_norm"] for c in curves]),
            }
            for panel in panels
        ],
        "runs": [
            {
                "name": run.name,
                "colour": number % N_COLOURS,
                "dash": _dash(number),
                "curves": {name: _curve_data(curve) for name, curve in run_curves.items()},
            }
            for number, (run, run_curves) in enumerate(zip(runs, curves, strict=True))
        ],
    }


def _dash(number: int) -> str:
    return DASHES[number // N_COLOURS % len(DASHES)]


def _curve_data(curve: Curve) -> dict[str, Any]:
    series: dict[str, Any] = {"points": [[step, _rounded(value)] for step, value in curve.points]}
    if any(column.count > 1 for column in curve.columns):
        series["columns"] = [[c.step, _rounded(c.mean), c.count] for c in curve.columns]
    return series


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")


def _render_runs(runs: Sequence[PlottedRun]) -> str:
    heads = "".join(f"<th{_class_attribute(head)}>{head}" for head in HEADERS)
    rows = "".join(
        f"<tr><th>{_swatch(number)}{escape(name)}"
        + "".join(
            f"<td{_class_attribute(head)}>{escape(cell)}"
            for head, cell in zip(HEADERS[1:], cells, strict=True)
        )
        for number, (name, *cells) in enumerate(map(row_of, runs))
    )
    return f"<div class=scroll><table><thead><tr>{heads}</thead><tbody>{rows}</tbody></table></div>"


def _class_attribute(head: str) -> str:
    return " class=number" if head in _NUMBERS else ""


def _swatch(number: int) -> str:
    stroke = f'stroke="var(--c{number % N_COLOURS})" stroke-dasharray="{_dash(number)}"'
    return f'<svg class="swatch" aria-hidden="true"><line x1="0" x2="26" y1="4" y2="4" {stroke}/></svg>'


def _render_differences(runs: Sequence[PlottedRun]) -> Iterator[str]:
    if len(runs) < 2:
        return
    yield "<h2>Config differences</h2>"
    unknown_configs = [run.name for run in runs if not run.config]
    if unknown_configs:
        yield f"<p class=dim>Runs without a config.yaml: {escape(', '.join(unknown_configs))}.</p>"
    leaves = differing_leaves(runs)
    if not leaves:
        if len(unknown_configs) < len(runs) - 1:
            yield "<p>Only the output folders differ.</p>"
        return
    names = [f"{_swatch(number)}{escape(run.name)}" for number, run in enumerate(runs)]
    values = [[escape(value) for value in leaf.values] for leaf in leaves]
    paths = [escape(leaf.path) for leaf in leaves]
    if len(runs) > max(6, len(leaves)):
        yield _render_table("run", paths, names, list(zip(*values, strict=True)))
    else:
        yield _render_table("field", names, paths, values)


def _render_table(
    corner: str, heads: Sequence[str], names: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """Return an HTML table; all arguments except `corner` contain HTML."""
    body = "".join(
        f"<tr><th>{name}{''.join(f'<td class=value><div>{cell}</div>' for cell in row)}"
        for name, row in zip(names, rows, strict=True)
    )
    head = "".join(f"<th>{text}" for text in heads)
    return (
        f"<div class=scroll><table><thead><tr><th>{corner}{head}</thead><tbody>{body}</tbody></table></div>"
    )
