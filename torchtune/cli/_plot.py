"""`tune plot`: plot the metrics of one or more runs as an image and an HTML page."""

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from torchtune.cli._command import MANY, Argument, Command, Form
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import paint, print_note

if TYPE_CHECKING:
    from torchtune.plots import PlottedRun

OUTPUT = Option(
    "-o, --output",
    "a folder for plot.png and plot.html, a path without extension (.png and .html are appended), or the path of a"
    " single .png or .html file (default: the run's folder; for several runs, their common parent folder)",
    "FOLDER or FILE",
)
SMOOTH = Option(
    "--smooth",
    "number of steps in the moving average, which is drawn as a thick curve; 1 for no smoothing (default: chosen"
    " according to the length of the longest run). The HTML page has a slider for this value",
    "N",
)


def run(call: Call) -> int:
    """Plot runs."""
    if not call.arguments:
        raise ValueError("expected one or more run folders; see tune plot --help")
    from torchtune.plots import HEADERS, default_smoothing, read_runs, row_of

    smooth = call.number(SMOOTH)
    runs = read_runs(call.arguments)
    files = _targets(call.value(OUTPUT), runs)
    smooth = smooth or default_smoothing(runs)
    for file in files:
        _write(file, runs, smooth, [other.name for other in files if other != file])
    sys.stdout.write("".join(f"{line}\n" for line in _table([list(HEADERS), *map(row_of, runs)])))
    for file in files:
        sys.stdout.write(f"wrote {file}\n")
    for plotted in runs:
        for note in plotted.notes:
            print_note(f"{plotted.name}: {note}")
    return 0


def _targets(output: str | None, runs: "Sequence[PlottedRun]") -> list[Path]:
    """Return the files to write."""
    from torchtune.runs import RunFolder

    if output is None:
        name = RunFolder(commonpath([run.folder.resolve() for run in runs])).plot
        working_folder = Path.cwd()
        name = name.relative_to(working_folder) if name.is_relative_to(working_folder) else name
    elif output.endswith((".png", ".html")):
        return [Path(output)]
    else:
        name = Path(output) / "plot" if output.endswith("/") or Path(output).is_dir() else Path(output)
    return [name.with_name(f"{name.name}{extension}") for extension in (".png", ".html")]


def _write(file: Path, runs: "Sequence[PlottedRun]", smooth: int, other_files: Sequence[str]) -> None:
    from torchtune.plots import image_of, page_of

    if file.suffix == ".png":
        content = image_of(runs, smooth)
    else:
        content = page_of(runs, smooth, other_files).encode("utf-8", "replace")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        advice = "choose a different path with -o"
        raise ValueError(f"{file} cannot be written: {error.strerror}; {advice}") from error


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table whose first row is the header; all columns but the first and last align right."""
    widths = [max(_width(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row_index, row in enumerate(rows):
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(cell))
            painted = paint(cell, "bold") if row_index == 0 else cell
            cells.append(painted + space if column in (0, len(row) - 1) else space + painted)
        yield "  ".join(cells).rstrip()


def _width(text: str) -> int:
    """Return the width of text in terminal columns; ideographs are two columns wide."""
    n_wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    n_combining = sum(unicodedata.combining(character) > 0 for character in text)
    return len(text) + n_wide - n_combining


COMMAND = Command(
    "plot",
    run,
    forms=(Form((Argument("RUN [RUN ...]", max_count=MANY),), (OUTPUT, SMOOTH)),),
    description="""\
Plots the loss, validation loss, learning rate, gradient norm, speed and memory
of runs, with the differences between their configs, as a PNG image and an HTML
page that works offline. RUN is a run's output_dir or its metrics.jsonl; the run
may still be in progress. If there are several runs, their labels are the parts
of their paths that differ; NAME=RUN sets a different label.""",
    examples=(
        "tune plot runs/monday",
        "tune plot runs/*",
        "tune plot small=runs/monday large=runs/tuesday -o comparison --smooth 25",
    ),
)
