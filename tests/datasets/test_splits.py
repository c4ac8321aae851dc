"""Splits and row ranges of local sources are compared with the `datasets` library."""

import json
import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.datasets.reading import error_of, rows_of
from torchtune.datasets import open_data_source

SHORT = {"train": 37, "validation": 10, "test": 3}
TRAIN = ["train.jsonl", "training.jsonl", "my-train_2.jsonl", "data/train/x.jsonl", "data/TRAIN-1.jsonl"]
VALIDATION = ["validation.jsonl", "valid.jsonl", "val.jsonl", "dev.jsonl", "x.eval.jsonl", "dev/rows.jsonl"]
TEST = ["test.jsonl", "testing.jsonl", "a/b/test/c/rows.jsonl", "train/test.jsonl"]
UNNAMED = [
    "trainer.jsonl",
    "latest.jsonl",
    "contest/rows.jsonl",
    "developers.jsonl",
    "evaluation.jsonl",
    "rows.jsonl",
]


def write(folder: Path, names: list[str]) -> Path:
    """Write files with one row each; a column contains the file name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"file": name}))
    return folder


def files_read(source: Any, **settings: Any) -> list[str]:
    return [row["file"] for row in rows_of(source, **settings)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, n in SHORT.items():
        lines = [json.dumps({"row": f"{name} {i}"}) for i in range(n)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize(
    "split",
    [
        "train", "test", "validation", "train[:10]", "train[10:]", "train[5:7]", "train[-5:]", "train[:-5]",
        "train[-7:-2]", "train[:1_0]", "train[:1000]", "train[30:1000]", "train[-1000:3]", "train[:10%]",
        "train[10%:20%]", "train[-10%:]", "train[33%:66%]", "train[90%:]", "test[:50%]", "test[50%:]",
        "train[:]", "train+validation", "train[:5]+test", "train[-5:]+train[:5]+validation[10%:30%]",
    ],
)  # fmt: skip
def test_ranges_match_the_datasets_library(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, split: str
) -> None:
    files = {name: str(folder / f"{name}.jsonl") for name in SHORT}
    cache = tmp_path_factory.mktemp("cache")
    expected = datasets.load_dataset("json", data_files=files, split=split, cache_dir=str(cache))
    assert rows_of(folder, split=split) == list(expected)


def test_ranges_select_rows_of_a_file_a_list_and_a_pattern(folder: Path) -> None:
    rows = rows_of(folder / "train.jsonl")
    assert rows_of(folder / "train.jsonl", split="train[10:12]") == rows[10:12]
    assert rows_of(str(folder / "*.jsonl"), split="train[-2:] + test[:1]") == [*rows[-2:], {"row": "test 0"}]
    assert rows_of(rows, split="train[:50%]") == rows[:18]
    table = open_data_source(str(folder), split="train[30:]+test[1:]")
    assert table.location(0) == f"{folder / 'train.jsonl'}: line 31"
    assert table.location(7) == f"{folder / 'test.jsonl'}: line 2"


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("", "split: expected the name of a split, a range of its rows or several of these"),
        ("train[5]", "split: expected the name of a split, a range of its rows or several of these"),
        ("train[:x]", "train[10%:20%] or train+validation, got 'train[:x]'"),
        ("train+", "split: expected the name of a split"),
        ("train[:110%]", "split: expected percentages from -100% to 100%, got 'train[:110%]'"),
        ("train[5:5]", "split: the range 5:5 is empty; 'train' has 37 rows"),
        ("train[100:]", "split: the range 37:37 is empty; 'train' has 37 rows"),
        ("test[:10%]", "split: the range 0:0 is empty; 'test' has 3 rows"),
        ("tests", "has no split 'tests'; choose one of test, train, validation"),
        ("train+other", "has no split 'other'; choose one of test, train, validation"),
    ],
)
def test_a_missing_or_invalid_split_raises(folder: Path, split: str, message: str) -> None:
    assert message in error_of(folder, split=split)


@pytest.mark.quick_cases(50)
@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("validation", VALIDATION)
@pytest.mark.parametrize("test", TEST)
def test_file_and_folder_names_set_the_split(tmp_path: Path, train: str, validation: str, test: str) -> None:
    write(tmp_path, [train, validation, test])
    for pattern in ("", "**/*.jsonl"):
        source = str(tmp_path / pattern)
        assert files_read(source) == files_read(source, split="training") == [train]
        for split in ("validation", "valid", "val", "dev", "eval"):
            assert files_read(source, split=split) == [validation]
        assert files_read(source, split="test") == [test]


@pytest.mark.parametrize("name", UNNAMED)
def test_similar_words_are_not_split_names(tmp_path: Path, name: str) -> None:
    write(tmp_path, [name, "a.jsonl"])
    assert files_read(tmp_path) == sorted([name, "a.jsonl"])
    message = f"split: {tmp_path} has no split 'test'; it contains no file or folder with that name"
    assert message.partition(tmp_path.name)[2] in error_of(tmp_path, split="test")


@pytest.mark.parametrize("named", ["train.jsonl", "test.jsonl", "dev/a.jsonl"])
@pytest.mark.parametrize("split", ["train", "test", "validation"])
def test_a_mixture_of_names_with_and_without_a_split_raises(tmp_path: Path, named: str, split: str) -> None:
    write(tmp_path, [named, "extra.jsonl"])
    error = error_of(tmp_path, split=split)
    if split in named or (split, named) == ("validation", "dev/a.jsonl"):
        assert f"has files with a split in their names, such as {named}, and files without one" in error
        assert "such as extra.jsonl; use a file pattern or one file as the source" in error
    else:
        assert f"has no split {split!r}; choose one of " in error


def test_a_name_with_two_splits_raises(tmp_path: Path) -> None:
    write(tmp_path, ["train-vs-test.jsonl", "dev.jsonl"])
    error = error_of(tmp_path)
    assert "the name 'train-vs-test.jsonl' in " in error
    assert "contains the names of several splits (test, train); rename it, or use a file pattern" in error
    assert files_read(tmp_path / "train-vs-test.jsonl") == ["train-vs-test.jsonl"]


@pytest.mark.parametrize("name", ["test.jsonl", "dev/val-1.jsonl", "rows.jsonl"])
def test_a_file_given_as_the_source_is_read_regardless_of_its_name(tmp_path: Path, name: str) -> None:
    assert files_read(write(tmp_path, [name]) / name) == [name]


def test_a_file_given_as_the_source_is_also_assigned_to_the_split_in_its_name(tmp_path: Path) -> None:
    write(tmp_path, ["test/rows.jsonl", "dev-1.jsonl"])
    assert files_read(tmp_path / "dev-1.jsonl", split="validation[:1]") == ["dev-1.jsonl"]
    for source, split in (("dev-1.jsonl", "test"), ("test/rows.jsonl", "test")):
        error = error_of(tmp_path / source, split=split)
        assert f"has no split {split!r}; use that split's file as the source" in error


def test_a_pattern_that_contains_a_split_name_needs_no_split_setting(tmp_path: Path) -> None:
    write(tmp_path, ["test-1.jsonl", "test-2.jsonl", "train-1.jsonl"])
    assert files_read(tmp_path / "test-*.jsonl") == ["test-1.jsonl", "test-2.jsonl"]
    assert files_read(tmp_path / "t*-1.jsonl") == ["train-1.jsonl"]
    assert "has no split 'train'; choose one of test" in error_of(tmp_path / "te*-*.jsonl")
    write(tmp_path, ["train/a.jsonl", "train/test.jsonl"])
    assert "has files with a split in their names" in error_of(tmp_path / "train/*.jsonl", split="test")


def test_the_path_of_the_source_itself_does_not_set_the_split(tmp_path: Path) -> None:
    write(tmp_path, ["test/a.jsonl", "test/b.jsonl"])
    assert files_read(tmp_path / "test") == ["test/a.jsonl", "test/b.jsonl"]
    assert "has no split 'train'; choose one of test" in error_of(tmp_path)


def test_other_splits_are_selected_by_their_exact_name(tmp_path: Path) -> None:
    shards = [
        f"data/{name}-0000{i}-of-00002.jsonl"
        for name in ("train_sft", "train_gen", "test_sft")
        for i in (0, 1)
    ]
    write(tmp_path, shards)
    assert files_read(tmp_path, split="train_sft") == shards[:2]
    assert files_read(tmp_path, split="test") == shards[4:]
    assert "has several splits that match 'train'; choose one of train_gen, train_sft" in error_of(tmp_path)
    write(tmp_path, ["data/train-00000-of-00001.jsonl"])
    assert files_read(tmp_path) == ["data/train-00000-of-00001.jsonl"]
    assert files_read(tmp_path, split="train_gen") == shards[2:4]


def test_a_folder_or_file_name_can_be_a_custom_split(tmp_path: Path) -> None:
    write(tmp_path, ["faq/a.jsonl", "faq/b.jsonl", "chats.jsonl"])
    assert files_read(tmp_path, split="faq") == ["faq/a.jsonl", "faq/b.jsonl"]
    assert files_read(tmp_path, split="chats") == ["chats.jsonl"]
    assert files_read(tmp_path) == ["chats.jsonl", "faq/a.jsonl", "faq/b.jsonl"]


def test_a_list_of_rows_has_one_split() -> None:
    with pytest.raises(ValueError, match="split: a list of rows has no split 'test', only 'train'"):
        open_data_source([{"a": 1}], split="test")


def saved(folder: Path, splits: dict[str, int]) -> datasets.DatasetDict:
    tables = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"file": [name] * n}) for name, n in splits.items()}
    )
    with warnings.catch_warnings():
        tables.save_to_disk(folder)
    return tables


def test_a_saved_dataset_dict_has_its_splits(tmp_path: Path) -> None:
    saved(tmp_path, {"train": 3, "dev": 2, "hard_test": 1, "faq": 4})
    assert len(rows_of(tmp_path)) == 3
    for split in ("dev", "validation", "val[:2]"):
        assert files_read(tmp_path, split=split) == ["dev", "dev"]
    assert files_read(tmp_path, split="test") == ["hard_test"]
    assert files_read(tmp_path, split="faq[1:2]") == ["faq"]
    assert "has no split 'other'; choose one of dev, faq, hard_test, train" in error_of(
        tmp_path, split="other"
    )
    assert files_read(tmp_path / "faq") == ["faq"] * 4
    assert files_read(tmp_path / "dev", split="validation") == ["dev"] * 2


def test_saved_folder_names_set_the_split(tmp_path: Path) -> None:
    for name in ("my_train", "my_test"):
        datasets.Dataset.from_dict({"file": [name]}).save_to_disk(tmp_path / name)
    assert files_read(tmp_path) == ["my_train"]
    assert files_read(tmp_path, split="test") == ["my_test"]
    datasets.Dataset.from_dict({"file": ["extra"]}).save_to_disk(tmp_path / "extra")
    assert "has files with a split in their names, such as my_t" in error_of(tmp_path)
    assert files_read(tmp_path / "my_*", split="test") == ["my_test"]


def test_a_stream_supports_splits_but_not_ranges(tmp_path: Path) -> None:
    for name in ("train-1", "train-2", "test"):
        datasets.Dataset.from_dict({"file": [name] * 2}).to_parquet(tmp_path / f"{name}.parquet")
    streamed = {"streaming": True}
    assert files_read(tmp_path, load_options=streamed) == ["train-1", "train-1", "train-2", "train-2"]
    assert files_read(tmp_path, split="test", load_options=streamed) == ["test", "test"]
    error = error_of(tmp_path, split="train[:1]", load_options=streamed)
    assert error == "load_options.streaming: a range of rows cannot be streamed; use load_options.rows"
