"""A source or a file of prompts that does not exist is answered by the existing one that its name is similar to."""

from pathlib import Path

import pytest

from torchtune.datasets import open_source
from torchtune.generation import read_prompts


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
def test_a_missing_source_is_answered_by_a_similar_one(missing: str, existing: str, here: Path) -> None:
    if Path(existing).suffix:
        (here / existing).touch()
    else:
        (here / existing).mkdir(exist_ok=True)
    with pytest.raises(FileNotFoundError) as caught:
        open_source(missing)
    assert str(caught.value).startswith(f"{missing}: ")
    assert str(caught.value).endswith(f"; did you mean {existing}?")


@pytest.mark.parametrize("other", ["rows.jsonl", "chats.py", ".chats.jsonl", "test.jsonl"])
def test_other_files_are_not_suggested(other: str, here: Path) -> None:
    (here / other).touch()
    with pytest.raises(FileNotFoundError, match=r"^chat\.jsonl: no such file; paths are looked up from /"):
        open_source("chat.jsonl")


def test_the_most_similar_file_is_suggested(here: Path) -> None:
    for name in ("chatter.jsonl", "chats.jsonl", "chat_old.jsonl"):
        (here / name).touch()
    with pytest.raises(FileNotFoundError, match=r"did you mean chats\.jsonl\?$"):
        open_source("chat.jsonl")


def test_a_missing_file_of_prompts_is_answered_by_a_similar_one(here: Path) -> None:
    (here / "prompts.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no file prompt\.txt; .*; did you mean prompts\.txt\?$"):
        read_prompts("prompt.txt")
