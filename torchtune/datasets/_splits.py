"""Splits: what a setting such as `train[:1000]` says, and which files belong to which split."""

import re
from collections.abc import Collection, Sequence

from attrs import frozen

from torchtune.datasets._find_files import FoundFile
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
"""How `datasets` names the files of a split, such as train-00000-of-00002.parquet."""


@frozen
class SplitPart:
    """A split, or a range of its rows, as `datasets` writes it."""

    name: str
    start: int | None = None
    stop: int | None = None
    is_percent: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all rows are meant."""
        return self.start is None and self.stop is None

    def of(self, table: Table) -> Table:
        """Take these rows of the split's table.

        Raises:
            ValueError: There are none.
        """
        if self.is_whole:
            return table
        start, stop = self._bound(self.start, 0, len(table)), self._bound(self.stop, len(table), len(table))
        if start >= stop:
            raise ValueError(
                f"split: the range of {self.name!r} holds no rows; the split has {len(table):,}, this is {start}:{stop}"
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
        ValueError: It is none of these.
    """
    return [_parse_part(part.strip(), text) for part in text.split("+")]


def _parse_part(part: str, text: str) -> SplitPart:
    found = _PART.fullmatch(part)
    if found is None:
        raise ValueError(
            "split: expected a name, a range of its rows or several of them, such as train, train[:1000],"
            f" train[10%:20%] or train+validation, got {text!r}"
        )
    start, stop = (None if found[key] is None else int(found[key]) for key in ("start", "stop"))
    is_percent = bool(found["start_percent"] or found["stop_percent"])
    if is_percent and any(abs(bound or 0) > 100 for bound in (start, stop)):
        raise ValueError(f"split: expected percentages from -100% to 100%, got {text!r}")
    return SplitPart(found["name"], start, stop, is_percent)


def family_of(name: str) -> str:
    """Return the usual name of a split: `validation` of `dev`; of a name that is not known, itself."""
    return _FAMILY_OF.get(name.lower(), name)


def families_in(text: str) -> set[str]:
    """Return the splits whose names a text has as whole words, such as `test` in `my_test-2.jsonl`."""
    return {_FAMILY_OF[word] for word in re.split(r"[^a-z]+", text.lower()) if word in _FAMILY_OF}


def match_split(names: Collection[str], split: str, where: str) -> str | None:
    """Find a split among the names of those that there are.

    Args:
        names: Those that there are.
        split: The one asked for: its very name, a name of the same meaning (`val` for `validation`), or a word of its
            name (`train` for `train_sft`).
        where: What has these splits, for the message.

    Raises:
        ValueError: It could be several of them.
    """
    family = family_of(split)
    similar = [name for name in names if family_of(name) == family]
    by_word = [name for name in names if family in families_in(name)]
    matches = [split] if split in names else similar or by_word
    if len(matches) > 1:
        raise ValueError(
            f"split: {where} has several splits that {split!r} may mean; choose one of {', '.join(sorted(matches))}"
        )
    return matches[0] if matches else None


def choose_files(files: Sequence[FoundFile], split: str, where: str) -> Sequence[FoundFile]:
    """Choose the files of a split by the names of files and folders. Where none has such a name, all are `train`.

    Raises:
        ValueError: None belongs to the split, or it cannot be told which do.
    """
    splits = {file: split_of(file) for file in files}
    names = {name for name in splits.values() if name is not None}
    chosen = match_split(names, split, where)
    if chosen is None and not names and family_of(split) == "train":
        return files
    if chosen is None:
        named = [file for file in files if split in _names_of(file)]
        if named:
            return named
        choices = (
            f"choose one of {', '.join(sorted(names))}" if names else "no file or folder in it has that name"
        )
        raise ValueError(f"split: {where} has no split {split!r}; {choices}")
    unnamed = [file.name for file, name in splits.items() if name is None]
    if unnamed:
        example = next(file.name for file, name in splits.items() if name is not None)
        raise ValueError(
            f"split: {where} has files that carry the name of a split, such as {example}, and files that carry none,"
            f" such as {unnamed[0]}; choose files by a pattern, or give one file as the source"
        )
    return [file for file, name in splits.items() if name == chosen]


def split_of(file: FoundFile) -> str | None:
    """Return the split that the names of a file and its folders tell, the nearest name first; None: they tell none.

    Raises:
        ValueError: A name has the words of several splits.
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
                f"split: the name {part!r} of {file.path} has the words of several splits ({', '.join(families)});"
                " rename it, choose files by a pattern, or give one file as the source"
            )
        if families:
            return families[0]
    return None


def _names_of(file: FoundFile) -> list[str]:
    """Return the names of a file, without its endings, and of its folders."""
    *folders, last = file.name.split("/")
    return [*folders, last, last.partition(".")[0]]
