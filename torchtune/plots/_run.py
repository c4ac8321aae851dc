"""Find, label and read the runs of `tune plot`; only the metrics in a run's folder are required."""

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

_PLOT_SUFFIXES = (".png", ".html")
"""Extensions of the files that `tune plot` writes; in a folder of runs, `runs/*` matches them the next time."""


@frozen
class Sample:
    """A model's answer to a fixed prompt at a validation."""

    step: int
    prompt: str
    answer: str


@frozen
class PlottedRun:
    """The data of a run for plotting."""

    name: str
    """The label, which is unique among the plotted runs."""
    folder: Path
    metrics: "RunMetrics"
    config: dict[str, Any]
    """The frozen config; empty if missing."""
    record: dict[str, Any]
    """`run.json`; empty if missing."""
    samples: list[Sample]
    notes: list[str]
    """Messages about unreadable files and lines."""


def read_runs(args: Sequence[str]) -> list[PlottedRun]:
    """Read the runs on a command line.

    Args:
        args: Run folders or metrics files, optionally as `label=path`. If there are several arguments, images and pages
            are skipped.

    Raises:
        FileNotFoundError: A folder does not exist, or is not a run's folder.
        ValueError: Two arguments refer to the same run or have the same label, or a file contains no metrics.
        OSError: A file cannot be read.
    """
    labelled_paths = [_split(arg) for arg in args]
    if len(labelled_paths) > 1:
        labelled_paths = [
            (label, path) for label, path in labelled_paths if path.suffix not in _PLOT_SUFFIXES
        ] or labelled_paths
    paths_by_file: dict[Path, Path] = {}
    for _, path in labelled_paths:
        file = RunFolder(path.resolve()).metrics if path.is_dir() else path.resolve()
        if file in paths_by_file:
            raise ValueError(f"{path} and {paths_by_file[file]} are the same run; pass each run once")
        paths_by_file[file] = path
    names = _names(labelled_paths)
    return [_read(name, path) for name, (_, path) in zip(names, labelled_paths, strict=True)]


def _split(arg: str) -> tuple[str, Path]:
    """Return an argument's label, which may be empty, and its path; split `a=b=c` so that the path exists."""
    parts = arg.split("=")
    splits = [("=".join(parts[:i]), Path("=".join(parts[i:]))) for i in range(len(parts))]
    existing = [(label, path) for label, path in splits if path != Path() and path.exists()]
    if existing:
        return existing[0]
    is_labelled = len(parts) > 1 and all(parts[:2]) and "/" not in parts[0]
    return splits[1] if is_labelled else splits[0]


def _names(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Return a name for each run: its label or, without a label, the distinctive part of its path."""
    labels = [label for label, _ in named if label]
    if len(set(labels)) < len(labels):
        duplicate = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"two runs have the label {duplicate!r}; use different labels")
    short = iter(_distinct([path for label, path in named if not label]))
    names = [label or next(short) for label, _ in named]
    return [
        name if names.count(name) == 1 or label else str(path.resolve())
        for name, (label, path) in zip(names, named, strict=True)
    ]


def _distinct(paths: Sequence[Path]) -> list[str]:
    """Return paths without their common leading and trailing parts; at least one part of each path remains.

    >>> _distinct([Path("runs/a/out"), Path("runs/b/out")])
    ['a', 'b']
    """
    parts = [_folder_parts(path) for path in paths]
    if len(parts) < 2:
        return [path_parts[-1] for path_parts in parts]
    shortest = min(map(len, parts))
    head = min(_n_shared(parts), shortest - 1)
    tail = min(_n_shared([path_parts[::-1] for path_parts in parts]), shortest - head - 1)
    return ["/".join(path_parts[head : len(path_parts) - tail]) for path_parts in parts]


def _n_shared(sequences: Sequence[Sequence[str]]) -> int:
    """Return the length of the common prefix of all sequences."""
    levels = zip(*sequences, strict=False)  # ends with the shortest sequence
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))


def _folder_parts(path: Path) -> tuple[str, ...]:
    absolute = (
        path.resolve() if ".." in path.parts else path.absolute()
    )  # `absolute` keeps the names of symlinks
    if absolute.name == "metrics.jsonl":
        return absolute.parent.parts
    return (absolute if absolute.is_dir() else absolute.with_suffix("")).parts


def _read(name: str, path: Path) -> PlottedRun:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a run's output_dir, or its metrics.jsonl")
    run = RunFolder(path if path.is_dir() else path.parent)
    metrics = _metrics(path)
    notes = []
    if metrics.broken:
        notes.append(f"{_lines(metrics.broken)} of metrics.jsonl cannot be read")
    config, problem = _config(run.config)
    samples, broken = _samples(run.samples)
    notes += [problem] if problem else []
    notes += [f"{_lines(broken)} of samples.jsonl cannot be read"] if broken else []
    return PlottedRun(_printable(name), run.path, metrics, config, run.read_record(), samples, notes)


def _metrics(path: Path) -> "RunMetrics":
    from torchtune.utils.metric_logging import RunMetrics, read_metrics

    run = RunFolder(path)
    if run.has_begun and not run.metrics.exists():
        return RunMetrics([], [])  # the run has not completed its first step
    if path.is_dir() and not run.metrics.is_file() and _has_runs(path):
        raise FileNotFoundError(f"{path} is a folder of runs; plot them with `tune plot {path / '*'}`")
    metrics = read_metrics(path)
    if path.is_file() and metrics.broken and not metrics.lines:
        raise ValueError(f"{path} contains no metrics; expected a run's folder, or its metrics.jsonl")
    return metrics


def _has_runs(folder: Path) -> bool:
    return any(RunFolder(path).has_begun or RunFolder(path).metrics.is_file() for path in folder.iterdir())


def _config(file: Path) -> tuple[dict[str, Any], str]:
    """Return a frozen config, and an error message if it cannot be read; both are empty if the file does not exist."""
    if not file.exists():
        return {}, ""
    try:
        document = read_yaml(str(file))
    except ConfigError as error:
        return {}, "; ".join(mistake.sentence for mistake in error.mistakes)
    if document.mistakes or not isinstance(document.value, dict):
        return {}, "config.yaml is not a config"
    return document.value, ""


def _samples(file: Path) -> tuple[list[Sample], list[int]]:
    """Return the answers, and the numbers of unreadable lines; for a repeated step, the last answers are returned."""
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
    first_numbers = ", ".join(map(str, numbers[:5]))
    return f"{len(numbers)} lines ({first_numbers}{', ...' if len(numbers) > 5 else ''})"


def _printable(name: str) -> str:
    """Replace the unprintable characters of a name, which is shown in a terminal or an image."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
