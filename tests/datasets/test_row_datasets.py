"""Alpaca and instruct datasets encode, skip or reject rows."""

import json
import logging
import pickle
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import IGNORE_INDEX, Example, SkippedRow, alpaca_prompt
from torchtune.datasets import AlpacaDataset, InstructDataset

TOKENIZER = ByteTokenizer()
ROWS = [
    {"instruction": "Add.", "input": "2, 3", "output": "5"},
    {"instruction": "Sing.", "input": "", "output": "La."},
]


def write(folder: Path, rows: list[Any], name: str = "rows.json") -> str:
    """Write rows as a .json list, or as .jsonl with one object per line."""
    path = folder / name
    text = "\n".join(json.dumps(row) for row in rows) if name.endswith(".jsonl") else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def dataset_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages that the datasets logged, without messages about the chat template."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("torchtune.datasets")]


def targets(example: Example) -> str:
    """Decode the targets of an example."""
    return TOKENIZER.decode([label for label in example.labels if label != IGNORE_INDEX])


def test_alpaca_rows_use_the_published_prompt(tmp_path: Path) -> None:
    dataset = AlpacaDataset(TOKENIZER, source=write(tmp_path, ROWS), train_on_input=False)
    texts = [TOKENIZER.decode(example.tokens) for example in examples_of(dataset)]
    assert texts == [
        f"<|bos|>{alpaca_prompt('Add.', '2, 3')}5<|eos|>",
        f"<|bos|>{alpaca_prompt('Sing.')}La.<|eos|>",
    ]
    assert [targets(example) for example in examples_of(dataset)] == ["5<|eos|>", "La.<|eos|>"]


def test_alpaca_trains_on_the_input_by_default(tmp_path: Path) -> None:
    dataset = AlpacaDataset(TOKENIZER, source=write(tmp_path, ROWS))
    (first, _) = examples_of(dataset)
    assert first.labels == first.tokens


def test_instruct_rows_use_the_chat_template(tmp_path: Path) -> None:
    dataset = InstructDataset(TOKENIZER, write(tmp_path, ROWS))
    texts = [TOKENIZER.decode(example.tokens) for example in examples_of(dataset)]
    assert texts == [
        "<|im_start|>user\nAdd.\n\n2, 3<|im_end|>\n<|im_start|>assistant\n5<|im_end|>",
        "<|im_start|>user\nSing.<|im_end|>\n<|im_start|>assistant\nLa.<|im_end|>",
    ]
    assert [targets(example) for example in examples_of(dataset)] == ["5<|im_end|>", "La.<|im_end|>"]


def test_instruct_supports_a_system_turn_and_training_on_all_tokens(tmp_path: Path) -> None:
    dataset = InstructDataset(TOKENIZER, write(tmp_path, ROWS), train_on_input=True, system="Be brief.")
    _, second = examples_of(dataset)
    assert TOKENIZER.decode(second.tokens).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nS"
    )
    assert second.labels == second.tokens


def test_json_and_jsonl_files_produce_the_same_dataset(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        {"instruction": "Quote.", "input": None, "output": "one\u2028line \u00e9"},
        {"instruction": "Go.", "output": "Gone."},
    ]
    one = InstructDataset(TOKENIZER, write(tmp_path, rows))
    other = InstructDataset(TOKENIZER, write(tmp_path, rows, "rows.jsonl"))
    assert len(one) == len(other) == 4
    assert [one[i] for i in range(4)] == [other[i] for i in range(4)]


def test_a_byte_order_mark_and_unescaped_characters_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    line = json.dumps({"instruction": "Cite.", "output": "a\u2028é"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\n\n")
    assert targets(examples_of(InstructDataset(TOKENIZER, str(path)))[0]) == "a\u2028é<|im_end|>"


def examples_of(dataset: InstructDataset) -> list[Example]:
    """Return the examples of a dataset, without skipped rows."""
    return [row for row in map(dataset.__getitem__, range(len(dataset))) if isinstance(row, Example)]


def test_rows_without_an_answer_are_skipped_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [ROWS[0], {**ROWS[1], "output": " \n"}, {**ROWS[1], "output": ""}, ROWS[1]]
    source = write(tmp_path, rows)
    with caplog.at_level(logging.WARNING):
        dataset = InstructDataset(TOKENIZER, source)
    assert [targets(example) for example in examples_of(dataset)] == ["5<|im_end|>", "La.<|im_end|>"]
    assert dataset[1] == SkippedRow("have no answer", f"{source}: row 2")
    assert dataset_messages(caplog) == [
        f"2 of 4 rows have no answer and are skipped; first occurrence: {source}: row 2"
    ]


def test_a_dataset_without_any_answer_raises(tmp_path: Path) -> None:
    source = write(tmp_path, [{**ROWS[0], "output": ""}])
    with pytest.raises(
        ValueError, match=r"rows.json: row 1: no row can be trained on: 1 of 1 have no answer"
    ):
        AlpacaDataset(TOKENIZER, source=source)


@pytest.mark.parametrize("max_seq_len", [2, 40, 50, 55, 60, 1000])
@pytest.mark.parametrize("truncate", ["right", "left", "drop"])
def test_long_rows_are_truncated_or_skipped_if_no_target_remains(
    tmp_path: Path, max_seq_len: int, truncate: Literal["right", "left", "drop"]
) -> None:
    rows = [
        {"instruction": "x" * n, "output": "y" * m} for n, m in [(1, 1), (9, 9), (1, 30), (30, 1), (20, 3)]
    ]
    source = write(tmp_path, rows)
    untruncated = examples_of(InstructDataset(TOKENIZER, source))
    dataset = InstructDataset(TOKENIZER, source, max_seq_len=max_seq_len, truncate=truncate)
    for i, example in enumerate(untruncated):
        encoded = dataset[i]
        if len(example.tokens) <= max_seq_len:
            assert encoded == example
            continue
        if truncate == "drop":
            assert encoded == SkippedRow(f"are longer than {max_seq_len} tokens", f"{source}: row {i + 1}")
            continue
        part = slice(max_seq_len) if truncate == "right" else slice(-max_seq_len, None)
        short = Example(example.tokens[part], example.labels[part])
        location = f"{source}: row {i + 1}"
        skipped = SkippedRow(f"have no target within {max_seq_len} tokens", location)
        assert encoded == (short if short.n_targets else skipped)


def test_rows_are_encoded_on_demand(tmp_path: Path) -> None:
    class CountingTokenizer(ByteTokenizer):
        texts: list[str] = []  # noqa: RUF012 - a class attribute, as only one instance exists

        def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
            CountingTokenizer.texts.append(text)
            return super().encode_template(text, plain)

    dataset = InstructDataset(CountingTokenizer(), write(tmp_path, ROWS * 20))
    at_construction = len(CountingTokenizer.texts)
    dataset[7]
    one_row = len(CountingTokenizer.texts) - at_construction
    assert one_row == 1
    assert at_construction <= 4, "only the template check and the first row are encoded at construction"


def test_a_local_file_is_read_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise AssertionError(f"a socket was opened: {args}")

    monkeypatch.setattr(socket, "socket", fail)
    assert len(AlpacaDataset(TOKENIZER, source=write(tmp_path, ROWS))) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows.json: the file has no rows"),
        (["Sing."], "rows.json: row 1: no column 'instruction'; the row's columns are 'text'"),
        (
            [ROWS[0], {"instruction": "a", "answer": "b"}],
            "row 2: no column 'output'; the row's columns are 'instruction', 'answer'",
        ),
        (
            [{"prompt": "a", "output": "b"}],
            "row 1: no column 'instruction'; the row's columns are 'prompt', 'output'",
        ),
        ([{}], "row 1: no column 'instruction'; the row's columns are (none)"),
        (
            [{"instruction": "a", "inputs": "b", "output": "c"}],
            "row 1: no column 'input', and a column with a similar name is not used",
        ),
        ([ROWS[0], {**ROWS[0], "output": 5}], "row 2: 'output': expected text, got 5"),
        ([{**ROWS[0], "output": None}], "row 1: 'output': expected text, got null"),
        (
            [{"instruction": " ", "input": "", "output": "a"}],
            "row 1: 'instruction' and 'input' are both empty",
        ),
    ],
)
def test_errors_contain_the_invalid_row(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"rows\.json") as raised:
        InstructDataset(TOKENIZER, write(tmp_path, rows))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "rows.json",
            b'{"data": []}',
            "rows.json: expected a list of rows or one row per line, got one object",
        ),
        ("rows.json", b'[\n{"a": 1},\n{"b"}]', "rows.json: not valid JSON at line 3, column 5: "),
        ("rows.json", b"", "rows.json: the file has no rows"),
        (
            "rows.jsonl",
            b'{"instruction": "a", "output": "b"}\n\n{"instr',
            "rows.jsonl: line 3: not valid JSON at column 2: ",
        ),
        ("rows.jsonl", b"", "rows.jsonl: the file has no rows"),
        ("rows.json", b'["\xff"]', "rows.json: row 1: expected UTF-8 text; byte 1 (0xff) is invalid"),
        (
            "rows.doc",
            b"instruction,output\n",
            "rows.doc: expected a data file ending in .json, .jsonl, .csv",
        ),
    ],
)
def test_errors_contain_the_invalid_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="rows") as raised:
        InstructDataset(TOKENIZER, str(path))
    assert message in str(raised.value)


def test_a_missing_file_or_an_empty_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no/rows\.json: no such file; paths are relative to /"):
        AlpacaDataset(TOKENIZER, source="no/rows.json")
    with pytest.raises(FileNotFoundError, match="the folder contains no data files"):
        AlpacaDataset(TOKENIZER, source=str(tmp_path))


def test_settings_without_effect_raise(tmp_path: Path) -> None:
    source = write(tmp_path, ROWS)
    with pytest.raises(ValueError, match="use_clean"):
        AlpacaDataset(TOKENIZER, source=source, use_clean=True)
    with pytest.raises(ValueError, match=r"split: .*rows.json has no split 'test'"):
        AlpacaDataset(TOKENIZER, source=source, split="test")
    with pytest.raises(ValueError, match=r"load_options: .*revision would have no effect"):
        InstructDataset(TOKENIZER, source, load_options={"revision": "main"})
    with pytest.raises(ValueError, match="max_seq_len: expected an int above 1, or null, got 1"):
        InstructDataset(TOKENIZER, source, max_seq_len=1)


def test_a_tokenizer_without_a_chat_template_raises_at_construction(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no chat template"):
        InstructDataset(ByteTokenizer(None), write(tmp_path, ROWS))


class MarkedDataset(InstructDataset):
    """A user-defined subclass that is not an attrs class."""

    def __init__(self, tokenizer: ByteTokenizer, source: str, mark: str) -> None:
        super().__init__(tokenizer, source)
        self.mark = mark


def test_a_subclass_with_its_own_constructor_can_be_pickled(tmp_path: Path) -> None:
    dataset = MarkedDataset(TOKENIZER, write(tmp_path, ROWS), "m")
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.mark == "m"
    assert [copy[i] for i in range(2)] == [dataset[i] for i in range(2)]
