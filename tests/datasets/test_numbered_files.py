"""Files numbered without a separator, such as train1.jsonl, are assigned to the same split as in `datasets`."""

import contextlib
import json
from pathlib import Path

import pytest
from datasets.data_files import get_data_patterns, resolve_pattern

from tests.datasets.reading import rows_of


def splits_of(folder: Path) -> dict[str, list[str]]:
    """Return the files of each split that `datasets` finds in a folder."""
    files_by_split: dict[str, set[str]] = {}
    for split, patterns in get_data_patterns(str(folder)).items():
        files = files_by_split.setdefault(str(split), set())
        for pattern in patterns:
            with contextlib.suppress(FileNotFoundError):
                files.update(resolve_pattern(pattern, str(folder)))
    return {
        split: sorted(Path(file).relative_to(folder).as_posix() for file in files)
        for split, files in files_by_split.items()
    }


@pytest.mark.parametrize(
    "names",
    [
        ["train1.jsonl", "train2.jsonl", "test1.jsonl"],
        ["train0.jsonl", "val0.jsonl"],
        ["2023train.jsonl", "2024test.jsonl"],
        ["train01/a.jsonl", "train02/a.jsonl", "dev01/a.jsonl"],
    ],
)
def test_digits_separate_words_as_in_datasets(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))
    expected = splits_of(tmp_path)
    assert sorted(file for files in expected.values() for file in files) == sorted(names)
    for split, files in expected.items():
        assert [row["text"] for row in rows_of(tmp_path, split=split)] == files
