"""Data files are read from folders and from cloned hub repositories whose README.md lists the files."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.datasets.reading import error_of, rows_of

NOT_DATA = [
    ".hidden.jsonl", ".cache/a.jsonl", ".git/a.jsonl", ".ipynb_checkpoints/rows-checkpoint.jsonl",
    "sub/.ipynb_checkpoints/rows-checkpoint.jsonl", "__MACOSX/._rows.jsonl", "__MACOSX/rows.jsonl", "._rows.jsonl",
    "rows.jsonl~", "#rows.jsonl#", ".#rows.jsonl", "~$rows.csv", "rows.jsonl.bak", "rows.jsonl.orig", ".rows.jsonl.swp",
    "dataset_info.json", "dataset_infos.json", "sub/dataset_info.json", "README.md", "README.txt", "readme",
    "LICENSE.txt", "LICENSE-MIT.txt", "License.md", "licence.txt", "requirements.txt", "load.py", ".gitattributes",
]  # fmt: skip


def write(path: Path, value: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"file": path.name} if value is None else value))
    return path


def files_read(source: Any, **settings: Any) -> list[str]:
    return [row["file"] for row in rows_of(source, **settings)]


def test_files_that_are_not_data_are_ignored(tmp_path: Path) -> None:
    for name in [*NOT_DATA, "rows.jsonl", "sub/more.ndjson"]:
        write(tmp_path / name)
    assert files_read(tmp_path) == ["rows.jsonl", "more.ndjson"]
    assert files_read(tmp_path / "**/*son*") == ["rows.jsonl", "more.ndjson"]


@pytest.mark.parametrize("name", NOT_DATA)
def test_a_folder_without_data_files_raises(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert "the folder contains no data files (.json, .jsonl," in error_of(tmp_path)


@pytest.mark.parametrize(
    "name", ["requirements.jsonl", "license-questions.csv", "notices.txt", "readme.json"]
)
def test_data_files_with_similar_names_are_not_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(
        "file\na\nb\n" if name.endswith((".csv", ".txt")) else '{"file": 1}\n{"file": 2}'
    )
    assert len(rows_of(tmp_path)) >= 2


def test_a_hidden_file_or_folder_is_read_if_it_is_the_source(tmp_path: Path) -> None:
    write(tmp_path / ".cache" / ".rows.jsonl")
    write(tmp_path / ".cache" / "a.jsonl")
    assert files_read(tmp_path / ".cache" / ".rows.jsonl") == [".rows.jsonl"]
    assert files_read(tmp_path / ".cache") == files_read(tmp_path / ".cache" / "*.jsonl") == ["a.jsonl"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.jsonl")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    assert files_read(tmp_path / "data") == ["a.jsonl"]


def test_files_in_different_formats_raise(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    write(tmp_path / "test.ndjson")
    (tmp_path / "train.csv").write_text("file\nx\n")
    error = error_of(tmp_path)
    assert (
        "the folder has files of several formats (.csv, .jsonl); select one with a file pattern, such as"
        in error
    )
    assert files_read(tmp_path, split="test") == ["test.ndjson"]
    assert files_read(tmp_path / "*.csv") == ["x"]


CARD = """---
license: mit
configs:
- config_name: english
  data_files:
  - split: train
    path: "en/part-*.jsonl"
  - split: test
    path: [en/held_out.jsonl, en/more.jsonl]
- config_name: german
  data_files: de/*.jsonl
- config_name: sharded
  data_dir: sharded
---
# A data set

---
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(CARD)
    for name in (
        "en/part-1",
        "en/part-2",
        "en/held_out",
        "en/more",
        "en/unused",
        "de/a",
        "sharded/dev",
        "sharded/train",
    ):
        write(tmp_path / f"{name}.jsonl")
    return tmp_path


def test_a_clone_has_the_configurations_and_splits_in_its_readme(clone: Path) -> None:
    assert files_read(clone, load_options={"name": "english"}) == ["part-1.jsonl", "part-2.jsonl"]
    assert files_read(clone, split="test", load_options={"name": "english"}) == [
        "held_out.jsonl",
        "more.jsonl",
    ]
    assert files_read(clone, split="train[1:]", load_options={"name": "english"}) == ["part-2.jsonl"]
    assert files_read(clone, load_options={"name": "german"}) == ["a.jsonl"]
    assert files_read(clone, split="validation", load_options={"name": "sharded"}) == ["dev.jsonl"]


@pytest.mark.parametrize(("name", "split"), [("english", "train"), ("english", "test"), ("german", "train")])
def test_the_rows_of_a_clone_match_the_datasets_library(
    clone: Path, tmp_path: Path, name: str, split: str
) -> None:
    expected = datasets.load_dataset(str(clone), name, split=split, cache_dir=str(tmp_path / "cache"))
    assert rows_of(clone, split=split, load_options={"name": name}) == list(expected)


def test_multiple_configurations_without_a_default_raise(clone: Path) -> None:
    choices = "choose one of english, german, sharded"
    assert f"has several configurations; {choices}" in error_of(clone)
    assert f"has no configuration 'french'; {choices}" in error_of(clone, load_options={"name": "french"})
    error = error_of(clone, split="validation", load_options={"name": "english"})
    assert "the configuration 'english' of " in error
    assert "has no split 'validation'; choose one of test, train" in error


@pytest.mark.parametrize("line", ["default: true", "config_name: default"])
def test_the_default_configuration_is_read_without_its_name(clone: Path, line: str) -> None:
    card = CARD.replace("config_name: german", f"config_name: german\n  {line}")
    (clone / "README.md").write_text(card.replace("config_name: german\n  config_name", "config_name"))
    assert files_read(clone) == ["a.jsonl"]


def test_a_split_may_be_listed_in_multiple_entries(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    write(tmp_path / "b.jsonl")
    entries = "".join(f"  - split: train\n    path: {name}.jsonl\n" for name in "ab")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- data_files:\n{entries}---\n")
    assert files_read(tmp_path) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("data_files", "message"),
    [
        (
            "gone/*.jsonl",
            "no file matches 'gone/*.jsonl', which README.md lists for the configuration 'only'",
        ),
        ("../*.jsonl", "README.md lists files outside the folder ('../*.jsonl')"),
        ("/etc/*.txt", "README.md lists files outside the folder ('/etc/*.txt')"),
        ("'hf://datasets/a/b/c.jsonl'", "README.md lists files outside the folder ('hf://"),
        ("archive.tar", "archive.tar: expected a data file ending in .json, .jsonl"),
        (
            "a.csv\n  sep: ';'",
            "the configuration 'only' sets 'sep', which is not supported; convert its files",
        ),
        ("[]", "README.md lists no files for the split 'train' of the configuration 'only'"),
        ("\n  - split: train", "README.md lists no files for the split 'train' of the configuration 'only'"),
        (
            "a.csv\n  data_dir: gone",
            "gone: no such folder; README.md lists it for the configuration 'only'",
        ),
        ("[", "README.md: the header is not valid YAML (while parsing"),
    ],
)
def test_an_invalid_readme_raises(tmp_path: Path, data_files: str, message: str) -> None:
    (tmp_path / "README.md").write_text(
        f"---\nconfigs:\n- config_name: only\n  data_files: {data_files}\n---\n"
    )
    (tmp_path / "archive.tar").touch()
    (tmp_path / "a.csv").write_text("a;b\n1;2\n")
    assert message in error_of(tmp_path)


def test_a_readme_without_configurations_is_ignored(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00001.jsonl")
    write(tmp_path / "data" / "test-00000-of-00001.jsonl")
    for text in ("# Data", "---\nlicense: mit\n---\n", "---\n", "", "---\n- a\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert files_read(tmp_path) == ["train-00000-of-00001.jsonl"]
        error = error_of(tmp_path, load_options={"name": "english"})
        assert "load_options: name would have no effect on " in error


def test_a_git_lfs_pointer_raises(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    for name in ("a.jsonl", "a.csv", "a.txt", "a.json", "a.parquet", "a.jsonl.gz", "a.arrow"):
        (tmp_path / name).write_text(pointer)
        assert error_of(tmp_path / name) == (
            f"{name}: the file is a Git LFS pointer, not the data; run `git lfs pull`"
        )
