"""`tune data`: show what a run would read, token by token, and its numbers."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune._counted import counted
from torchtune.cli._run import ranks_of
from torchtune.cli._verb import CONFIG_OPTIONS, COUNT_OPTIONS, RECIPE, Form, Verb
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import is_coloured, paint

if TYPE_CHECKING:
    from torchtune.cli._data_summary import Summary

ROWS = Option("--rows", "rows that are shown, 2 if left out", "N")
LIMIT = Option(
    "--limit",
    "rows that are read for the numbers, spread over the dataset; all if left out (of a stream: the first 10000)",
    "N",
)
HTML = Option("--html", "write the same as a page", "FILE")
HELD_OUT = Option(
    "--held-out",
    "rows that the model is to be judged by, read as the dataset's own are: tell whether they stand among those trained"
    " on; the rows that the config's validation holds out, if left out",
    "SOURCE",
)
_BARS = "▁▂▃▄▅▆▇█"


def run(call: Call) -> int:
    """Show a run's data."""
    from torchtune.cli._data_summary import summarise

    rows, limit = call.number(ROWS) or 2, call.number(LIMIT)
    summary = summarise(call, ranks_of(call.launch), rows=rows, limit=limit, held_out=call.value(HELD_OUT))
    sys.stdout.write("".join(f"{line}\n" for line in _lines(summary)))
    page = call.value(HTML)
    if page is not None:
        from torchtune.cli._data_page import page_of

        Path(page).write_text(page_of(summary), encoding="utf-8")
        sys.stdout.write(f"\nwrote {page}\n")
    return 0


def _lines(summary: "Summary") -> Iterator[str]:
    """Yield what is printed on a terminal."""
    legend = [paint("trained to predict", "bold", "green"), paint("given", "dim"), paint("<special>", "cyan")]
    if not is_coloured(sys.stdout):
        legend = ["«trained to predict»", "given"]
    for number, row in enumerate(summary.rows, start=1):
        for at, document in enumerate(row, start=1):
            of = f", example {at} of {len(row)}" if len(row) > 1 else ""
            yield paint(f"row {number}{of}: {counted(len(document), 'token')}", "bold")
            yield _document(document)
            yield ""
    yield " · ".join(legend)
    yield ""
    width = max((len(name) for name, _ in summary.facts), default=0)
    for name, value in summary.facts:
        yield f"{name:{width}}  {value}"
    if summary.histogram:
        most = max(count for _, count in summary.histogram)
        bars = "".join(" " if not c else _BARS[(c * len(_BARS) - 1) // most] for _, c in summary.histogram)
        yield f"{'lengths':{width}}  {summary.histogram[0][0]} {bars} {max(summary.report.lengths)}"
    for warning in summary.report.warnings:
        yield f"{paint('warning:', 'yellow')} {warning}"


def _document(document: list[Any]) -> str:
    """Return an example's tokens with a bar between each two; a line break is shown, and made."""
    bar = paint("|", "dim")
    words = []
    for i, piece in enumerate(document):
        text = piece.text.replace("\r", "␍").replace("\t", "→")
        styles = ["bold", "green"] if piece.is_target else ["dim"]
        if piece.is_special:
            styles = ["bold", "cyan"] if piece.is_target else ["cyan"]
        shown = "\n".join(paint(part, *styles) for part in text.replace("\n", "⏎\n").split("\n"))
        begins = piece.is_target and not (i and document[i - 1].is_target)
        ends = piece.is_target and not (i + 1 < len(document) and document[i + 1].is_target)
        if not is_coloured(sys.stdout):
            shown = "«" * begins + shown + "»" * ends
        words.append(shown)
    return bar.join(words)


VERB = Verb(
    "data",
    run,
    forms=(Form((RECIPE,), (*CONFIG_OPTIONS, ROWS, LIMIT, HTML, HELD_OUT)),),
    launch=COUNT_OPTIONS,
    about="""\
Shows the first rows as the model will see them: targets, which it is trained to
predict, stand apart from what it is given, special tokens have their names, and
a bar stands between tokens. Then come the numbers of the dataset, what of its
rows is not in the tokens, and what is likely to be a mistake. No model is loaded.""",
    examples=(
        "tune data lora_finetune --config smollm2_135m_lora",
        "tune data lora_finetune --config smollm2_135m_lora loading.packing={} --html data.html",
    ),
)
