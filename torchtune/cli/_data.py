"""`tune data`: show the data of a run, token by token, with statistics."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune._pluralize import pluralize
from torchtune.cli._command import CONFIG_OPTIONS, COUNT_OPTIONS, RECIPE, Command, Form
from torchtune.cli._run import count_ranks
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import is_coloured, paint

if TYPE_CHECKING:
    from torchtune.cli._data_summary import Summary

ROWS = Option("--rows", "number of rows to show (default: 2)", "N")
LIMIT = Option(
    "--limit",
    "number of rows to read for the statistics, evenly spaced across the dataset (default: all rows; for a stream, the"
    " first 10000)",
    "N",
)
HTML = Option("--html", "also write an HTML page", "FILE")
HELD_OUT = Option(
    "--held-out",
    "held-out rows in the dataset's format; the statistics then report how many of these rows are also in the"
    " training data (default: the validation rows of the config)",
    "SOURCE",
)
_BARS = "▁▂▃▄▅▆▇█"


def run(call: Call) -> int:
    """Show a run's data."""
    from torchtune.cli._data_summary import summarize

    rows, limit = call.number(ROWS) or 2, call.number(LIMIT)
    summary = summarize(call, count_ranks(call.launch), rows=rows, limit=limit, held_out=call.value(HELD_OUT))
    sys.stdout.write("".join(f"{line}\n" for line in _lines(summary)))
    page = call.value(HTML)
    if page is not None:
        from torchtune.cli._data_page import render_page

        Path(page).write_text(render_page(summary), encoding="utf-8")
        sys.stdout.write(f"\nwrote {page}\n")
    return 0


def _lines(summary: "Summary") -> Iterator[str]:
    """Yield the lines to print on the terminal."""
    legend = [paint("target", "bold", "green"), paint("context", "dim"), paint("<special>", "cyan")]
    if not is_coloured(sys.stdout):
        legend = ["«target»", "context"]
    for number, row in enumerate(summary.rows, start=1):
        for position, document in enumerate(row, start=1):
            example = f", example {position} of {len(row)}" if len(row) > 1 else ""
            yield paint(f"row {number}{example}: {pluralize(len(document), 'token')}", "bold")
            yield _document(document)
            yield ""
    yield " · ".join(legend)
    yield ""
    width = max((len(name) for name, _ in summary.facts), default=0)
    for name, value in summary.facts:
        yield f"{name:{width}}  {value}"
    if summary.histogram:
        peak = max(count for _, count in summary.histogram)
        bars = "".join(" " if not c else _BARS[(c * len(_BARS) - 1) // peak] for _, c in summary.histogram)
        yield f"{'lengths':{width}}  {summary.histogram[0][0]} {bars} {max(summary.report.lengths)}"
    for warning in summary.report.warnings:
        yield f"{paint('warning:', 'yellow')} {warning}"


def _document(document: list[Any]) -> str:
    """Return an example's tokens, separated by bars; line breaks are shown as a symbol, followed by a line break."""
    bar = paint("|", "dim")
    painted_tokens = []
    for i, piece in enumerate(document):
        text = piece.text.replace("\r", "␍").replace("\t", "→")
        styles = ["bold", "green"] if piece.is_target else ["dim"]
        if piece.is_special:
            styles = ["bold", "cyan"] if piece.is_target else ["cyan"]
        painted = "\n".join(paint(part, *styles) for part in text.replace("\n", "⏎\n").split("\n"))
        begins = piece.is_target and not (i and document[i - 1].is_target)
        ends = piece.is_target and not (i + 1 < len(document) and document[i + 1].is_target)
        if not is_coloured(sys.stdout):
            painted = "«" * begins + painted + "»" * ends
        painted_tokens.append(painted)
    return bar.join(painted_tokens)


COMMAND = Command(
    "data",
    run,
    forms=(Form((RECIPE,), (*CONFIG_OPTIONS, ROWS, LIMIT, HTML, HELD_OUT)),),
    launch=COUNT_OPTIONS,
    description="""\
Shows the first rows as the model will see them. Target tokens (the tokens that
the model learns to predict) are highlighted, special tokens are shown by name,
and bars separate tokens. Then prints statistics of the dataset, and warnings
about skipped rows, unused columns and likely problems. Does not load a model.""",
    examples=(
        "tune data lora_finetune --config smollm2_135m_lora",
        "tune data lora_finetune --config smollm2_135m_lora loading.packing={} --html data.html",
    ),
)
