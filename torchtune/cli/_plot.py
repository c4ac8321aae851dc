"""`tune plot`: draw the curves of runs, as a picture and a page."""

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from torchtune.cli._verb import MANY, Argument, Form, Verb
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import paint, print_note

if TYPE_CHECKING:
    from torchtune.plots import PlottedRun

OUTPUT = Option(
    "-o, --output",
    "a folder for plot.png and plot.html, or a name for both, or one file ending in .png or .html; the run's folder if"
    " left out, that of all runs if there are several",
    "FOLDER or FILE",
)
SMOOTH = Option(
    "--smooth",
    "steps that the thick curves are the mean of, 1 for none; as many as suit the longest run if left out. The page"
    " has a slider for it",
    "N",
)


def run(call: Call) -> int:
    """Draw runs."""
    if not call.arguments:
        raise ValueError("name a run's folder, or several; tune plot --help says more")
    from torchtune.plots import HEADS, read_runs, row_of, usual_smoothing

    smooth = call.number(SMOOTH)
    runs = read_runs(call.arguments)
    files = _targets(call.value(OUTPUT), runs)
    smooth = smooth or usual_smoothing(runs)
    for file in files:
        _write(file, runs, smooth, beside=[other.name for other in files if other != file])
    sys.stdout.write("".join(f"{line}\n" for line in _table([list(HEADS), *map(row_of, runs)])))
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
        here = Path.cwd()
        name = name.relative_to(here) if name.is_relative_to(here) else name
    elif output.endswith((".png", ".html")):
        return [Path(output)]
    else:
        name = Path(output) / "plot" if output.endswith("/") or Path(output).is_dir() else Path(output)
    return [name.with_name(f"{name.name}{ending}") for ending in (".png", ".html")]


def _write(file: Path, runs: "Sequence[PlottedRun]", smooth: int, beside: Sequence[str]) -> None:
    from torchtune.plots import image_of, page_of

    if file.suffix == ".png":
        content = image_of(runs, smooth)
    else:
        content = page_of(runs, smooth, beside).encode("utf-8", "replace")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        advice = "choose another place with -o"
        raise ValueError(f"{file} cannot be written: {error.strerror}; {advice}") from error


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table whose first row is its head; numbers stand at the right of their columns."""
    widths = [max(_width(cell) for cell in column) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = []
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(cell))
            shown = paint(cell, "bold") if number == 0 else cell
            cells.append(shown + space if at in (0, len(row) - 1) else space + shown)
        yield "  ".join(cells).rstrip()


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes; ideographs take two."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    combined = sum(unicodedata.combining(character) > 0 for character in text)
    return len(text) + wide - combined


VERB = Verb(
    "plot",
    run,
    forms=(Form((Argument("RUN [RUN ...]", most=MANY),), (OUTPUT, SMOOTH)),),
    about="""\
Draws loss, validation loss, learning rate, gradient norm, speed and memory of
runs, beside what differs in their configs: a picture, and a page that needs no
network. A run is its output_dir or the metrics.jsonl in it; a running one will
do. Of several, each has the part of its path that tells it from the others as
its name, or the one given as NAME=RUN.""",
    examples=(
        "tune plot runs/monday",
        "tune plot runs/*",
        "tune plot small=runs/monday large=runs/tuesday -o comparison --smooth 25",
    ),
)
