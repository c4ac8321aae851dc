"""The same rows produce the same examples in every row format and file format, including cached and skipped rows."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.expected_examples import (
    AGENT,
    Plain,
    Target,
    answer_target,
    assistant,
    example,
    notes_of,
    question_text,
    user,
)
from torchtune.data import Example, Pair, SkippedRow
from torchtune.datasets import ChatDataset, InstructDataset, PreferenceDataset, TextCompletionDataset

TOKENIZER = ByteTokenizer()
SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n"


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.Codec("zstd").compress(content, asbytes=True)),
}


# File formats

TASKS = [
    {"instruction": "Q, «é»", "output": 'A\n"B"'},
    {"instruction": "\ufeff\x85\x0c\u2028", "output": "🎉"},
]
EXPECTED = [example(question_text(row["instruction"]), answer_target(row["output"])) for row in TASKS]


def as_lines(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def as_csv(rows: list[Any], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([list(rows[0]), *(row.values() for row in rows)])
    return text.getvalue()


CONTENTS = {
    "lines.json": as_lines(TASKS),
    "lines.ndjson": as_lines(TASKS),
    "list.jsonl": json.dumps(TASKS),
    "list.ndjson": json.dumps(TASKS, indent=1),
    "list.json": json.dumps(TASKS, indent="\t", ensure_ascii=False),
    "records.csv": as_csv(TASKS),
    "records.tsv": as_csv(TASKS, "\t"),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("compression", COMPRESS)
def test_every_file_format_produces_the_same_examples(name: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}{compression}"
    for bom in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(COMPRESS[compression](bom + CONTENTS[name].encode()))
        dataset = InstructDataset(TOKENIZER, str(path))
        assert [dataset[i] for i in range(len(dataset))] == EXPECTED
    assert InstructDataset(TOKENIZER, str(path), split="train[1:]")[0] == EXPECTED[1]


def test_compressed_files_in_a_folder_are_read_in_name_order(tmp_path: Path) -> None:
    for i, compression in enumerate(COMPRESS):
        line = json.dumps({"text": f"{i}"}).encode()
        (tmp_path / f"{i}.jsonl{compression}").write_bytes(COMPRESS[compression](line))
    dataset = TextCompletionDataset(TOKENIZER, str(tmp_path))
    assert [dataset[i] for i in range(len(dataset))] == [
        [example(Target(f"<|bos|>{i}<|eos|>"))] for i in range(5)
    ]


# Conversation formats

TURNS = [user("Q"), assistant("A"), user("And?"), assistant("B")]
BOTH = example(question_text(), answer_target(), f"\n{question_text('And?')}", answer_target("B"))
LAST = example(f"{question_text()}A<|im_end|>\n{question_text('And?')}", answer_target("B"))
SHARED = [
    {"from": who, "value": turn["content"]} for who, turn in zip(["human", "gpt"] * 2, TURNS, strict=True)
]


def text(value: Any) -> str:
    return json.dumps(value)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": TURNS}, BOTH),
        ({"messages": text(TURNS)}, BOTH),
        ({"messages": json.dumps(TURNS, indent=2)}, BOTH),
        ({"conversations": f"\n {text(SHARED)}\n"}, BOTH),
        ({"conversation": SHARED}, BOTH),
        ({"messages": None, "conversations": SHARED}, BOTH),
        ({"prompt": TURNS[:3], "completion": TURNS[3:]}, LAST),
        ({"prompt": SHARED[:3], "completion": "B"}, LAST),
        ({"prompt": text(TURNS[:3]), "completion": text(TURNS[3:])}, LAST),
        ({"prompt": TURNS[:3], "completion": TURNS[3]}, LAST),
        ({"prompt": "Q", "completion": TURNS[1:]}, BOTH),
        ({"prompt": TURNS[0], "completion": text(TURNS[1:])}, BOTH),
    ],
)
def test_every_conversation_layout_produces_the_same_example(
    row: dict[str, Any], expected: Example, tmp_path: Path
) -> None:
    assert ChatDataset(TOKENIZER, [row])[0] == expected
    assert ChatDataset(TOKENIZER, [row], train_on="last")[0] == LAST
    with_system = ChatDataset(TOKENIZER, [{**row, "system": "Be kind."}])[0]
    assert isinstance(with_system, Example)
    assert with_system.tokens == example(SYSTEM).tokens + expected.tokens
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    assert ChatDataset(TOKENIZER, str(path))[0] == expected
    assert ChatDataset(TOKENIZER, str(path), load_options={"streaming": True})[0] == expected
    if all(isinstance(value, str) for value in row.values()):
        (tmp_path / "rows.csv").write_text(as_csv([row]))
        assert ChatDataset(TOKENIZER, str(tmp_path / "rows.csv"))[0] == expected


def test_text_that_begins_like_json_is_read_as_text() -> None:
    for content in ("[1, 2]", '{"role": "user"}', "[x] or [y]?", "[]", '["a"]'):
        row = {"prompt": content, "completion": content}
        assert ChatDataset(TOKENIZER, [row])[0] == example(question_text(content), answer_target(content))


@pytest.mark.parametrize("as_text", [True, False])
def test_every_preference_layout_produces_the_same_pair(as_text: bool) -> None:
    def column(value: Any) -> Any:
        return json.dumps(value) if as_text else value

    other = [*TURNS[:3], assistant("C")]
    expected = Pair(
        LAST, example(f"{question_text()}A<|im_end|>\n{question_text('And?')}", answer_target("C"))
    )
    rows = [
        {"chosen": column(TURNS), "rejected": column(other)},
        {"prompt": column(TURNS[:3]), "chosen": column(TURNS[3:]), "rejected": column(other[3:])},
        {"messages": column(TURNS[:3]), "chosen": "B", "rejected": "C"},
        {"conversations": column(SHARED[:3]), "chosen": "B", "rejected": column(other[3:])},
    ]
    for row in rows:
        assert PreferenceDataset(TOKENIZER, [row])[0] == expected


# Image placeholders


@pytest.mark.parametrize(
    "placeholder",
    ["<image>", "<video>", "<audio>", "<|image|>", "<|image_pad|>", "[IMG]", "<img>", "<image_placeholder>"],
)
def test_image_placeholders_are_reported_at_any_location(placeholder: str, tmp_path: Path) -> None:
    content = f"{placeholder}\nWhat is this?"
    call = assistant(None, tool_calls=[{"name": "look", "arguments": {"at": placeholder}}])
    pair = PreferenceDataset(TOKENIZER, [{"prompt": content, "chosen": "A", "rejected": placeholder}])[0]
    assert isinstance(pair, Pair)
    encoded = [
        ChatDataset(TOKENIZER, [{"messages": [user("Q"), assistant("B"), user(content), assistant()]}])[0],
        ChatDataset(TOKENIZER, [{"prompt": "Q", "completion": content}])[0],
        ChatDataset(ByteTokenizer(AGENT), [{"messages": [user(), call]}])[0],
        InstructDataset(TOKENIZER, [{"instruction": "Q", "input": content, "output": "A"}])[0],
        pair.chosen,
        pair.rejected,
    ]
    for one in encoded:
        (note,) = notes_of(one)
        assert note.startswith(
            f"contain '{placeholder}', a placeholder for an image, video or sound, which is encoded as plain text: "
        )
    assert encoded[1] == example(question_text(), answer_target(content))


@pytest.mark.parametrize("content", ["a < image > b", "<images>", "How do I use <img src='a'>?", "image"])
def test_similar_text_is_not_reported_as_an_image_placeholder(content: str) -> None:
    assert notes_of(ChatDataset(TOKENIZER, [{"messages": [user(content), assistant()]}])[0]) == []


# Caching


class CacheableTokenizer(ByteTokenizer):
    """A tokenizer with a fingerprint, so that rows are cached."""

    def fingerprint(self) -> str:
        return "bytes"


def test_cached_rows_have_the_same_notes_and_errors(tmp_path: Path) -> None:
    call = assistant(None, tool_calls=[{"name": "f", "arguments": {}}])
    rows: list[dict[str, Any]] = [
        {"messages": json.dumps([user("<image>", name="Bob"), assistant("<|eos|>")]), "id": 7},
        {"messages": [user(), call]},
        {"messages": [user(), assistant(" ")]},
    ]
    chats = [ChatDataset(CacheableTokenizer(), rows, on_error="skip") for _ in range(3)]
    plain = [chats[0][i] for i in range(3)]
    assert plain[0] == example(
        question_text("<image>"), Plain("<|eos|>", is_target=True), Target("<|im_end|>")
    )
    for dataset in chats[1:]:
        dataset.use_cache(str(tmp_path))
        encoded = [dataset[i] for i in range(3)]
        assert encoded == plain
        assert notes_of(encoded[0]) == notes_of(plain[0])
        assert dataset._cache is not None
        dataset._cache.flush()
    assert len(notes_of(plain[0])) == 4
    assert all(isinstance(row, SkippedRow) for row in plain[1:])
