"""Parse split settings such as `train[:1000]`, and find the files of a split."""

import re
from collections.abc import Collection, Sequence

from attrs import frozen

from torchtune._pluralize import pluralize
from torchtune.datasets._find_files import DataFile
from torchtune.datasets._formats import is_saved
from torchtune.datasets._tables import SlicedTable, Table

_FAMILIES = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "val", "dev", "eval", "valset", "devset", "evalset"),
    "test": ("test", "testing", "testset"),
}
_FAMILY_OF = {name: family for family, names in _FAMILIES.items() for name in names}

_BOUND = r"-?\d[\d_]*"
_PART = re.compile(
    rf"(?P<name>\w+(?:[.-]\w+)*)(?:\[(?P<start>{_BOUND})?(?P<start_percent>%)?:(?P<stop>{_BOUND})?(?P<stop_percent>%)?\])?"
)
_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}\b")
"""The names that `datasets` gives to the files of a split, such as train-00000-of-00002.parquet."""


@frozen
class SplitPart:
    """A split, or a range of its rows, in the syntax of `datasets`."""

    name: str
    start: int | None = None
    stop: int | None = None
    is_percent: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all rows are selected."""
        return self.start is None and self.stop is None

    def select(self, table: Table) -> Table:
        """Return the selected rows of the split's table.

        Raises:
            ValueError: The range is empty.
        """
        if self.is_whole:
            return table
        start, stop = self._bound(self.start, 0, len(table)), self._bound(self.stop, len(table), len(table))
        if start >= stop:
            raise ValueError(
                f"split: the range {start}:{stop} is empty; {self.name!r} has {pluralize(len(table), 'row')}"
            )
        return SlicedTable(table, range(start, stop))

    def _bound(self, value: int | None, default: int, n_rows: int) -> int:
        if value is None:
            return default
        if self.is_percent:
            value = round(value * n_rows / 100)
        return min(max(value + n_rows, 0) if value < 0 else value, n_rows)


def parse_split(text: str) -> list[SplitPart]:
    """Read a setting such as `train`, `train[10%:20%]` or `train+validation`.

    Raises:
        ValueError: The setting is not valid.
    """
    return [_parse_part(part.strip(), text) for part in text.split("+")]


def _parse_part(part: str, text: str) -> SplitPart:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(
            "split: expected the name of a split, a range of its rows or several of these, such as train,"
            f" train[:1000], train[10%:20%] or train+validation, got {text!r}"
        )
    start, stop = (None if match[key] is None else int(match[key]) for key in ("start", "stop"))
    is_percent = bool(match["start_percent"] or match["stop_percent"])
    if is_percent and any(abs(bound or 0) > 100 for bound in (start, stop)):
        raise ValueError(f"split: expected percentages from -100% to 100%, got {text!r}")
    return SplitPart(match["name"], start, stop, is_percent)


def family_of(name: str) -> str:
    """Return the usual name of a split: `validation` for `dev`. Other names are returned unchanged."""
    return _FAMILY_OF.get(name.lower(), name)


def families_in(text: str) -> set[str]:
    """Return the splits whose names occur as whole words in a string, such as `test` in `my_test-2.jsonl`."""
    return {_FAMILY_OF[word] for word in re.split(r"[^a-z]+", text.lower()) if word in _FAMILY_OF}


def match_split(names: Collection[str], split: str, subject: str) -> str | None:
    """Return the name of an existing split that matches the requested one, or None.

    Args:
        names: The existing splits.
        split: The requested split: an exact name, a synonym (`val` for `validation`), or a word of the name (`train`
            for `train_sft`).
        subject: Description of the source of these splits, for messages.

    Raises:
        ValueError: Several splits match.
    """
    family = family_of(split)
    similar = [name for name in names if family_of(name) == family]
    by_word = [name for name in names if family in families_in(name)]
    matches = [split] if split in names else similar or by_word
    if len(matches) > 1:
        raise ValueError(
            f"split: {subject} has several splits that match {split!r}; choose one of {', '.join(sorted(matches))}"
        )
    return matches[0] if matches else None


def choose_files(files: Sequence[DataFile], split: str, subject: str) -> Sequence[DataFile]:
    """Return the files of a split, based on file and folder names. If no name has a split, all files are `train`.

    Raises:
        ValueError: No file belongs to the split, or the split of a file is unclear.
    """
    splits = {file: split_of(file) for file in files}
    names = {name for name in splits.values() if name is not None}
    chosen = match_split(names, split, subject)
    if chosen is None and not names and family_of(split) == "train":
        return files
    if chosen is None:
        named = [file for file in files if split in _names_of(file)]
        if named:
            return named
        choices = (
            f"choose one of {', '.join(sorted(names))}"
            if names
            else "it contains no file or folder with that name"
        )
        raise ValueError(f"split: {subject} has no split {split!r}; {choices}")
    unnamed = [file.name for file, name in splits.items() if name is None]
    if unnamed:
        example = next(file.name for file, name in splits.items() if name is not None)
        raise ValueError(
            f"split: {subject} has files with a split in their names, such as {example}, and files without one, such as"
            f" {unnamed[0]}; use a file pattern or one file as the source"
        )
    return [file for file, name in splits.items() if name == chosen]


def split_of(file: DataFile) -> str | None:
    """Return the split in the name of a file or of its nearest folder; None if no name contains one.

    Raises:
        ValueError: A name contains several splits.
    """
    if is_saved(file.path) and (file.path.parent / "dataset_dict.json").is_file():
        return file.path.name
    *_, last = parts = file.name.split("/")
    shard = _SHARD.match(last)
    if shard is not None:
        return shard["split"]
    for part in reversed(parts):
        families = sorted(families_in(part))
        if len(families) > 1:
            raise ValueError(
                f"split: the name {part!r} in {file.path} contains the names of several splits"
                f" ({', '.join(families)}); rename it, or use"
                " a file pattern or one file as the source"
            )
        if families:
            return families[0]
    return None


def _names_of(file: DataFile) -> list[str]:
    """Return the names of a file's folders, and the file's name with and without suffixes."""
    *folders, last = file.name.split("/")
    return [*folders, last, last.partition(".")[0]]
