"""The runs of `tune plot`: found, named and read; nothing in a run's folder but its metrics has to be there."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from torchtune.config import ConfigError
from torchtune.config.model import read_yaml
from torchtune.runs import RunFolder

if TYPE_CHECKING:
    from torchtune.utils.metric_logging import RunMetrics

_DRAWN = (".png", ".html")
"""What this verb writes, and what a shell's `runs/*` therefore finds the next time."""


@frozen
class Sample:
    """What a model answered to a fixed prompt at a validation."""

    step: int
    prompt: str
    answer: str


@frozen
class PlottedRun:
    """A run as it is drawn."""

    name: str
    """What tells it from the others."""
    folder: Path
    metrics: "RunMetrics"
    config: dict[str, Any]
    """The frozen config; empty where there is none."""
    record: dict[str, Any]
    """`run.json`; empty where there is none."""
    samples: list[Sample]
    notes: list[str]
    """What of it could not be read, a sentence each."""


def read_runs(words: Sequence[str]) -> list[PlottedRun]:
    """Read the runs that a command line names.

    Args:
        words: Each a run's folder or its metrics file, perhaps as `label=path`. Of several, pictures and pages are
            passed over.

    Raises:
        FileNotFoundError: There is no such folder, or it is no run's.
        ValueError: A run or a label is named twice, or a file holds no metrics.
        OSError: A file cannot be read.
    """
    named = [_split(word) for word in words]
    if len(named) > 1:
        named = [(label, path) for label, path in named if path.suffix not in _DRAWN] or named
    seen: dict[Path, Path] = {}
    for _, path in named:
        file = RunFolder(path.resolve()).metrics if path.is_dir() else path.resolve()
        if file in seen:
            raise ValueError(f"{path} and {seen[file]} are the same run; name each run once")
        seen[file] = path
    names = _names(named)
    return [_read(name, path) for name, (_, path) in zip(names, named, strict=True)]


def _split(word: str) -> tuple[str, Path]:
    """Return a word's label, which may be empty, and its path; of `a=b=c`, whichever path there is."""
    parts = word.split("=")
    splits = [("=".join(parts[:at]), Path("=".join(parts[at:]))) for at in range(len(parts))]
    there = [(label, path) for label, path in splits if path != Path() and path.exists()]
    if there:
        return there[0]
    is_labelled = len(parts) > 1 and all(parts[:2]) and "/" not in parts[0]
    return splits[1] if is_labelled else splits[0]


def _names(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Return the labels, and for the rest of the runs the part of their paths that tells them apart."""
    labels = [label for label, _ in named if label]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"two runs are labelled {twice!r}; give each another label")
    short = iter(_distinct([path for label, path in named if not label]))
    names = [label or next(short) for label, _ in named]
    return [
        name if names.count(name) == 1 or label else str(path.resolve())
        for name, (label, path) in zip(names, named, strict=True)
    ]


def _distinct(paths: Sequence[Path]) -> list[str]:
    """Return the parts of paths between those at which all begin and those at which all end; never nothing.

    >>> _distinct([Path("runs/a/out"), Path("runs/b/out")])
    ['a', 'b']
    """
    parts = [_folder_parts(path) for path in paths]
    if len(parts) < 2:
        return [each[-1] for each in parts]
    shortest = min(map(len, parts))
    head = min(_n_shared(parts), shortest - 1)
    tail = min(_n_shared([each[::-1] for each in parts]), shortest - head - 1)
    return ["/".join(each[head : len(each) - tail]) for each in parts]


def _n_shared(sequences: Sequence[Sequence[str]]) -> int:
    """Count the items that all sequences begin with."""
    levels = zip(*sequences, strict=False)  # as long as the shortest
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))


def _folder_parts(path: Path) -> tuple[str, ...]:
    absolute = path.resolve() if ".." in path.parts else path.absolute()  # a link has its own name
    if absolute.name == "metrics.jsonl":
        return absolute.parent.parts
    return (absolute if absolute.is_dir() else absolute.with_suffix("")).parts


def _read(name: str, path: Path) -> PlottedRun:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder; name a run's output_dir, or its metrics.jsonl")
    run = RunFolder(path if path.is_dir() else path.parent)
    metrics = _metrics(path)
    notes = []
    if metrics.broken:
        notes.append(f"{_lines(metrics.broken)} of metrics.jsonl cannot be read")
    config, why = _config(run.config)
    samples, broken = _samples(run.samples)
    notes += [why] if why else []
    notes += [f"{_lines(broken)} of samples.jsonl cannot be read"] if broken else []
    return PlottedRun(_printable(name), run.path, metrics, config, run.read_record(), samples, notes)


def _metrics(path: Path) -> "RunMetrics":
    from torchtune.utils.metric_logging import RunMetrics, read_metrics

    run = RunFolder(path)
    if run.has_begun and not run.metrics.exists():
        return RunMetrics([], [])  # it has not come to its first step
    if path.is_dir() and not run.metrics.is_file() and _has_runs(path):
        raise FileNotFoundError(f"{path} is a folder of runs; `tune plot {path / '*'}` draws them")
    metrics = read_metrics(path)
    if path.is_file() and metrics.broken and not metrics.lines:
        raise ValueError(f"{path}: no line of it holds metrics; name a run's folder, or its metrics.jsonl")
    return metrics


def _has_runs(folder: Path) -> bool:
    return any(RunFolder(path).has_begun or RunFolder(path).metrics.is_file() for path in folder.iterdir())


def _config(file: Path) -> tuple[dict[str, Any], str]:
    """Return a frozen config, and why there is none; both are empty where there is no file."""
    if not file.exists():
        return {}, ""
    try:
        document = read_yaml(str(file))
    except ConfigError as error:
        return {}, "; ".join(mistake.sentence for mistake in error.mistakes)
    if document.mistakes or not isinstance(document.value, dict):
        return {}, "config.yaml holds no config"
    return document.value, ""


def _samples(file: Path) -> tuple[list[Sample], list[int]]:
    """Return the answers, of a step's prompt that stands twice the later, and the numbers of broken lines."""
    from torchtune.utils.metric_logging import json_lines

    samples: dict[tuple[int, str], Sample] = {}
    broken: list[int] = []
    if not file.is_file():
        return [], broken
    for number, values in json_lines(file):
        try:
            sample = Sample(int(values["step"]), str(values["prompt"]), str(values["answer"]))
        except (ValueError, TypeError, KeyError):
            broken.append(number)
        else:
            samples[sample.step, sample.prompt] = sample
    return list(samples.values()), broken


def _lines(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    shown = ", ".join(map(str, numbers[:5]))
    return f"{len(numbers)} lines ({shown}{', ...' if len(numbers) > 5 else ''})"


def _printable(name: str) -> str:
    """Return a name for one line of a terminal or a picture, whatever a folder is called."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
