"""The README.md of a repository cloned from the Hugging Face hub, whose header lists the data files."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen

from torchtune.datasets._find_files import DataFile, files_in
from torchtune.datasets._formats import check_formats
from torchtune.datasets._splits import choose_files, match_split

_READER_SETTINGS = {
    "sep",
    "delimiter",
    "names",
    "column_names",
    "header",
    "skiprows",
    "quotechar",
    "encoding",
    "field",
}
"""Settings that a configuration may contain for the readers of `datasets`, but that our readers do not support."""


@frozen
class DatasetConfig:
    """A configuration (subset) of a dataset repository, such as the data in one language.

    The format: https://huggingface.co/docs/hub/datasets-manual-configuration.
    """

    name: str
    root: Path
    """The folder that the patterns are relative to."""
    patterns: dict[str, list[str]] | None
    """File patterns by split. None: the split of a file is inferred from its name."""
    is_default: bool

    def files(self, split: str) -> Sequence[DataFile]:
        """Return the files of a split.

        Raises:
            FileNotFoundError: The folder does not contain the files.
            ValueError: The split does not exist, or a file is not a data file.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root}: no such folder; README.md lists it for the configuration {self.name!r}"
            )
        subject = f"the configuration {self.name!r} of {self.root}"
        if self.patterns is None:
            return choose_files(files_in(self.root), split, subject)
        name = match_split(self.patterns, split, subject)
        if name is None:
            raise ValueError(
                f"split: {subject} has no split {split!r}; choose one of {', '.join(sorted(self.patterns))}"
            )
        paths = sorted({path for pattern in self.patterns[name] for path in self._matching(pattern)})
        if not paths:
            raise ValueError(f"split: README.md lists no files for the split {name!r} of {subject}")
        check_formats(paths)
        return [DataFile(path, path.relative_to(self.root).as_posix()) for path in paths]

    def _matching(self, pattern: str) -> list[Path]:
        if pattern.startswith("/") or ".." in pattern.split("/") or "://" in pattern:
            raise ValueError(
                f"{self.root}: README.md lists files outside the folder ({pattern!r}); use a file pattern as the source"
            )
        names = glob.glob(pattern, root_dir=self.root, recursive=True)  # noqa: PTH207 - Path.glob does not accept `**.jsonl`.
        paths = [self.root / name for name in names if (self.root / name).is_file()]
        if not paths:
            raise FileNotFoundError(
                f"{self.root}: no file matches {pattern!r}, which README.md lists for the configuration"
                f" {self.name!r}; download the files, or use a different file pattern as the source"
            )
        return paths


def read_configs(folder: Path) -> list[DatasetConfig]:
    """Return the configurations that a folder's README.md lists, if it exists and lists any.

    Raises:
        ValueError: The list is invalid.
    """
    path = folder / "README.md"
    entries = _header(path).get("configs") if path.is_file() else None
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(
            f"{path}: expected a list of configurations under 'configs'; fix it, or use a file pattern as the source"
        )
    return [_config(entry, path) for entry in entries]


def choose_config(configs: Sequence[DatasetConfig], name: str | None, folder: Path) -> DatasetConfig:
    """Return the configuration with the given name or, if no name is given, the only or default configuration.

    Raises:
        ValueError: No configuration has that name, or there are several and no default.
    """
    matches = [config for config in configs if config.name == name] if name is not None else list(configs)
    if name is None and len(configs) > 1:
        matches = [config for config in configs if config.is_default]
    if len(matches) != 1:
        problem = "has several configurations" if name is None else f"has no configuration {name!r}"
        names = ", ".join(sorted(config.name for config in configs))
        raise ValueError(f"load_options.name: {folder} {problem}; choose one of {names}")
    return matches[0]


def _config(entry: dict[str, Any], path: Path) -> DatasetConfig:
    name = str(entry.get("config_name", "default"))
    settings = sorted(_READER_SETTINGS & entry.keys())
    if settings:
        raise ValueError(
            f"{path}: the configuration {name!r} sets {settings[0]!r}, which is not supported; convert its files and"
            " use them as the source"
        )
    is_default = entry.get("default") is True or name == "default"
    patterns = _patterns(entry.get("data_files"))
    return DatasetConfig(name, path.parent / str(entry.get("data_dir") or ""), patterns, is_default)


def _patterns(data_files: Any) -> dict[str, list[str]] | None:
    """Return file patterns by split; patterns without a split belong to `train`."""
    if data_files is None:
        return None
    if isinstance(data_files, dict):
        return {str(split): _texts(patterns) for split, patterns in data_files.items()}
    entries = data_files if isinstance(data_files, list) else [data_files]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        return {"train": _texts(entries)}
    patterns = dict[str, list[str]]()
    for entry in entries:
        patterns.setdefault(str(entry.get("split", "train")), []).extend(_texts(entry.get("path", [])))
    return patterns


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _header(path: Path) -> dict[str, Any]:
    """Read the YAML header of a README.md, between two lines of dashes; if there is no header, return an empty dict."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    dashes = [i for i, line in enumerate(lines) if line.rstrip() == "---"]
    if len(dashes) < 2 or dashes[0] != 0:
        return {}
    try:
        header = yaml.safe_load("\n".join(lines[1 : dashes[1]]))
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path}: the header is not valid YAML ({' '.join(str(error).split())}); fix it, or use a file pattern as"
            " the source"
        ) from error
    return header if isinstance(header, dict) else {}
