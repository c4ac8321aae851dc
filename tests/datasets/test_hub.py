"""Datasets on the hub are loaded through a fake `datasets.load_dataset`."""

from typing import Any

import datasets
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import SkippedRow
from torchtune.datasets import AlpacaDataset, InstructDataset

TOKENIZER = ByteTokenizer()
COLUMNS = {"instruction": ["Add.", "Hush.", "Sing."], "input": ["2, 3", "", ""], "output": ["5", "", "La."]}


class FakeHub:
    """A replacement for `datasets.load_dataset` that records its calls."""

    def __init__(self, columns: dict[str, list[str]] | Exception) -> None:
        self.columns = columns
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, path: str, **kwargs: Any) -> datasets.Dataset:
        self.calls.append((path, kwargs))
        if isinstance(self.columns, Exception):
            raise self.columns
        return datasets.Dataset.from_dict(self.columns)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub({**COLUMNS, "text": ["", "", ""]})
    monkeypatch.setattr(datasets, "load_dataset", hub)
    return hub


def test_alpaca_is_loaded_by_name(hub: FakeHub) -> None:
    AlpacaDataset(TOKENIZER)
    AlpacaDataset(TOKENIZER, use_clean=True)
    AlpacaDataset(TOKENIZER, source="who/what", split="test[:5]", load_options={"revision": "abc"})
    assert hub.calls == [
        ("tatsu-lab/alpaca", {"split": "train"}),
        ("yahma/alpaca-cleaned", {"split": "train"}),
        ("who/what", {"split": "test[:5]", "revision": "abc"}),
    ]


def test_hub_rows_produce_the_same_examples_as_local_rows(hub: FakeHub, tmp_path: Any) -> None:
    table = AlpacaDataset(TOKENIZER, train_on_input=False)
    assert len(hub.calls) == 1
    path = tmp_path / "rows.jsonl"
    datasets.Dataset.from_dict(COLUMNS).to_json(path)
    local = AlpacaDataset(TOKENIZER, train_on_input=False, source=str(path))
    assert (table[0], table[2]) == (local[0], local[2])
    assert local[1] == SkippedRow("have no answer", f"{path}: line 2")
    assert table[1] == SkippedRow("have no answer", "tatsu-lab/alpaca: row 2")


def test_a_table_with_other_columns_raises(hub: FakeHub) -> None:
    hub.columns = {"question": ["a"], "answer": ["b"]}
    with pytest.raises(
        ValueError,
        match="who/what: row 1: no column 'instruction'; the row's columns are 'question', 'answer'",
    ):
        InstructDataset(TOKENIZER, "who/what")


def test_an_empty_table_raises(hub: FakeHub) -> None:
    hub.columns = {"instruction": [], "output": []}
    with pytest.raises(ValueError, match="who/what: the split 'train' has no rows"):
        InstructDataset(TOKENIZER, "who/what")


@pytest.mark.parametrize("kind", [ConnectionError, FileNotFoundError, ValueError])
def test_a_hub_error_is_raised_with_the_name_of_the_source(hub: FakeHub, kind: type[Exception]) -> None:
    hub.columns = kind("the reason")
    with pytest.raises(kind, match=r"^who/what(: .*| cannot be loaded: )the reason"):
        InstructDataset(TOKENIZER, "who/what")


def test_an_access_token_is_rejected_as_an_unknown_option(hub: FakeHub) -> None:
    with pytest.raises(ValueError, match=r"load_options: unknown option token; expected name, revision"):
        InstructDataset(TOKENIZER, "who/what", load_options={"token": "hf_x"})
    assert hub.calls == []
