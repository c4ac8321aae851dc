"""If a source or a prompt file does not exist, an existing path with a similar name is suggested."""

from pathlib import Path

import pytest

from torchtune.datasets import open_data_source
from torchtune.generation import read_prompts


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("missing", "existing"),
    [
        ("chat.jsonl", "chats.jsonl"),
        ("chats.json", "chats.jsonl"),
        ("chats.jsonl", "chats.jsonl.gz"),
        ("data/trian.csv", "data/train.csv"),
        ("dta/train.txt", "data/train.txt"),
        ("train_rows.parquet", "train-rows.parquet"),
        ("chats", "chats.jsonl"),
        ("dta/train", "data/train"),
        ("dta/*.jsonl", "data"),
    ],
)
def test_a_similar_path_is_suggested_for_a_missing_source(missing: str, existing: str, folder: Path) -> None:
    if Path(existing).suffix:
        (folder / existing).touch()
    else:
        (folder / existing).mkdir(exist_ok=True)
    with pytest.raises(FileNotFoundError) as caught:
        open_data_source(missing)
    assert str(caught.value).startswith(f"{missing}: ")
    assert str(caught.value).endswith(f"; did you mean {existing}?")


@pytest.mark.parametrize("other", ["rows.jsonl", "chats.py", ".chats.jsonl", "test.jsonl"])
def test_other_files_are_not_suggested(other: str, folder: Path) -> None:
    (folder / other).touch()
    with pytest.raises(FileNotFoundError, match=r"^chat\.jsonl: no such file; paths are relative to /"):
        open_data_source("chat.jsonl")


def test_the_most_similar_file_is_suggested(folder: Path) -> None:
    for name in ("chatter.jsonl", "chats.jsonl", "chat_old.jsonl"):
        (folder / name).touch()
    with pytest.raises(FileNotFoundError, match=r"did you mean chats\.jsonl\?$"):
        open_data_source("chat.jsonl")


def test_a_similar_path_is_suggested_for_a_missing_prompt_file(folder: Path) -> None:
    (folder / "prompts.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"prompts file not found: prompt\.txt; did you mean prompts\.txt\?$"
    ):
        read_prompts("prompt.txt")
