"""If a folder contains training, validation and test files, only the requested split is read."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import Example, Pair
from torchtune.datasets import ChatDataset, InstructDataset, PreferenceDataset, TextCompletionDataset
from torchtune.generation import read_prompts

TOKENIZER = ByteTokenizer()


def write(folder: Path, *names: str) -> Path:
    """Write files with one row each; the answer is the file name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"instruction": "Q", "output": name}
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist([row]), path)
        else:
            path.write_text(json.dumps(row))
    return folder


def names_in(source: Path | str, **settings: Any) -> list[str]:
    """Return the names of the files that a dataset reads."""
    dataset = InstructDataset(TOKENIZER, str(source), **settings)
    texts = []
    for i in range(len(dataset)):
        encoded = dataset[i]
        assert isinstance(encoded, Example)
        texts.append(TOKENIZER.decode(encoded.tokens).rpartition("assistant\n")[2].removesuffix("<|im_end|>"))
    return texts


@pytest.mark.parametrize(
    ("train", "held_out", "test"),
    [
        (["train.jsonl"], ["validation.jsonl"], ["test.jsonl"]),
        (["a/train/x.jsonl", "b/train/y.jsonl"], ["a/valid/x.jsonl"], ["b/testing/x.jsonl"]),
        (["squad_train_v2.jsonl"], ["squad_dev_v2.jsonl"], ["squad_test_v2.jsonl"]),
        (["Training.JSONL"], ["Val.JSONL"], ["Testing.JSONL"]),
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            ["data/validation-00000-of-00001.parquet"],
            ["data/test-00000-of-00001.parquet"],
        ),
        (["train_1.jsonl.gz.jsonl", "train_2.jsonl"], ["eval.jsonl"], ["test.2024.jsonl"]),
    ],
)
def test_each_split_reads_only_its_files(
    train: list[str], held_out: list[str], test: list[str], tmp_path: Path
) -> None:
    # The name of the source folder itself is ignored.
    folder = write(tmp_path / "test set", *train, *held_out, *test)
    (folder / "README.md").write_text("About it.")
    assert names_in(folder) == train
    assert names_in(folder, split="validation") == held_out
    assert names_in(folder, split="test") == test
    assert names_in(folder, split="train+test") == [*train, *test]
    assert names_in(folder, split="train[:1]") == train[:1]
    assert sorted(names_in(f"{folder}/**/*", split="validation")) == held_out
    assert names_in(folder / held_out[0]) == held_out[:1], (
        "a file given as the source is read regardless of its name"
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train.jsonl", "more.jsonl"],
            "files with a split in their names, such as train.jsonl, and files without one, such as more",
        ),
        (
            ["train.jsonl", "train.csv"],
            "has files of several formats (.csv, .jsonl); select one with a file pattern",
        ),
        (["test.jsonl", "validation.jsonl"], "has no split 'train'; choose one of test, validation"),
        (["train_test_split.jsonl", "b.jsonl"], "contains the names of several splits (test, train)"),
        (
            ["train_sft-00000-of-00001.parquet", "train_gen-00000-of-00001.parquet"],
            "has several splits that match 'train'; choose one of train_gen, train_sft",
        ),
    ],
)
def test_an_ambiguous_split_raises(names: list[str], message: str, tmp_path: Path) -> None:
    folder = write(tmp_path, *names)
    with pytest.raises(ValueError, match=r"has |contains ") as raised:
        names_in(folder)
    assert message in str(raised.value)


def test_every_dataset_reads_the_requested_split(tmp_path: Path) -> None:
    rows = {"prompt": "Q", "chosen": "A", "rejected": "B", "completion": "A", "text": "T"}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps({key: f"{value} {name}" for key, value in rows.items()})
        )
    for split in ("train", "test"):
        others = ["chosen", "rejected"]
        text = TextCompletionDataset(TOKENIZER, str(tmp_path), split=split, ignore_columns=others)[0]
        pair = PreferenceDataset(TOKENIZER, str(tmp_path), split=split)[0]
        chat = ChatDataset(TOKENIZER, str(tmp_path), split=split, ignore_columns=others)[0]
        assert isinstance(text, list)
        assert isinstance(pair, Pair)
        assert isinstance(chat, Example)
        for encoded in (*text, pair.chosen, pair.rejected, chat):
            decoded = TOKENIZER.decode(encoded.tokens)
            assert split in decoded
            assert ("test" if split == "train" else "train") not in decoded


def test_a_clone_of_a_hub_repository_reads_only_its_train_split(tmp_path: Path) -> None:
    files = ["{split: train, path: sets/one.jsonl}", "{split: test, path: sets/two.jsonl}"]
    header = f"configs:\n- config_name: default\n  data_files: [{', '.join(files)}]\n"
    folder = write(tmp_path, "sets/one.jsonl", "sets/two.jsonl", "sets/unlisted.jsonl", ".git/x.jsonl")
    (folder / "README.md").write_text(f"---\n{header}---\n# About\n")
    assert names_in(folder) == ["sets/one.jsonl"]
    assert names_in(folder, split="test") == ["sets/two.jsonl"]
    with pytest.raises(ValueError, match="has no split 'validation'; choose one of test, train"):
        names_in(folder, split="validation")


def test_prompts_are_read_only_from_the_given_file(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "test.jsonl")
    (prompt,) = read_prompts(tmp_path / "test.jsonl")
    assert prompt.row["output"] == "test.jsonl"
