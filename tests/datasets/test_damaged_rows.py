"""Unclosed quotes, huge cells, unpaired surrogates and keys added by Arrow are read correctly or raise an error."""

import csv
import gzip
import io
import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.expected_examples import AGENT, answer_target, assistant, example, question_text, user
from torchtune.data import Batches, Example, Pair, SkippedRow
from torchtune.datasets import (
    ChatDataset,
    InstructDataset,
    PreferenceDataset,
    RowError,
    TextCompletionDataset,
)

TOKENIZER = ByteTokenizer()
HEADER = "instruction,output\n"


# Quotes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('Q,A\n"never,closed\nQ,A\n', "line 3: the quote that opens at column 1 is never closed"),
        ('Q,A\nQ,"never\n\nQ,A', "line 3: the quote that opens at column 3 is never closed"),
        ('"one\ntwo","three\nQ,A\n', "line 3: the quote that opens at column 6 is never closed"),
        ('"Say ""hi,A\nQ,A\n', "line 2: the quote that opens at column 1 is never closed"),
        (
            'Q,"A" and more\n',
            "line 2: the field that opens with a quote at column 3 continues after its closing quote",
        ),
        (
            '"never,closed\n"Q",A\n',
            "line 2: the field that opens with a quote at column 1 continues after its closing",
        ),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("line_ending", ["\n", "\r\n"])
def test_an_unclosed_quote_raises_an_error_with_the_line(
    name: str, text: str, message: str, line_ending: str, tmp_path: Path
) -> None:
    table = (HEADER + text).replace("\n", line_ending)
    content = (table.replace(",", "\t") if ".tsv" in name else table).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for on_error in ("raise", "skip"):  # later rows cannot be located, so skipping is impossible
        with pytest.raises(ValueError, match="line ") as raised:
            InstructDataset(TOKENIZER, str(tmp_path / name), on_error=on_error)
        assert f"{name}: {message}" in str(raised.value)


def test_quotes_inside_text_are_accepted(tmp_path: Path) -> None:
    rows = [('12" pipe', 'it is 5"'), ("a\n\nb", 'say "hi", he said'), ("'a'", "“b”"), ('""', '"')]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    (tmp_path / "a.csv").write_text(f'{HEADER}12" pipe,it is 5"\n{text.getvalue()}', newline="")
    dataset = InstructDataset(TOKENIZER, str(tmp_path / "a.csv"))
    examples = [dataset[i] for i in range(len(dataset))]
    assert examples == [example(question_text(q), answer_target(a)) for q, a in [rows[0], *rows]]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_cells_of_any_length_are_read(name: str, tmp_path: Path) -> None:
    cells = ["x" * 131_073, '"' * 140_000 + "\n", "é" * 200_000]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if "tsv" in name else ",")
    writer.writerows([("instruction", "output"), *((cell, cell) for cell in cells)])
    content = text.getvalue().encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    limit = csv.field_size_limit(131_072)  # the default of a new process
    try:
        dataset = InstructDataset(TOKENIZER, str(tmp_path / name))
        csv.field_size_limit(131_072)
        for one in (dataset, pickle.loads(pickle.dumps(dataset))):
            assert [one[i] for i in range(3)] == [
                example(question_text(cell), answer_target(cell)) for cell in cells
            ]
        texts = TextCompletionDataset(TOKENIZER, str(tmp_path / name), column="output", max_seq_len=1000)[2]
        assert isinstance(texts, list)
        assert sum(part.n_targets for part in texts) == 2 * 200_000 + 1
    finally:
        csv.field_size_limit(limit)


# Unpaired surrogates

UNPAIRED = "x\ud83d"


@pytest.mark.parametrize(
    ("dataset", "row", "column"),
    [
        (ChatDataset, {"messages": [user(UNPAIRED), assistant()]}, "messages"),
        (
            ChatDataset,
            {"messages": [user(), assistant(None, tool_calls=[{"name": "f", "arguments": {UNPAIRED: 1}}])]},
            "messages",
        ),
        (ChatDataset, {"prompt": "Q", "completion": UNPAIRED}, "completion"),
        (ChatDataset, {"messages": [user(), assistant()], "tools": [{"name": UNPAIRED}]}, "tools"),
        (InstructDataset, {"instruction": "Q", "output": "A", "history": [["a", UNPAIRED]]}, "history"),
        (InstructDataset, {"instruction": "Q", "output": "A", "note": UNPAIRED}, "note"),
        (PreferenceDataset, {"prompt": "Q", "chosen": "A", "rejected": UNPAIRED}, "rejected"),
        (TextCompletionDataset, {"text": UNPAIRED}, "text"),
    ],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_an_unpaired_surrogate_raises_an_error_with_the_row_at_construction(
    dataset: Any, row: dict[str, Any], column: str, as_file: bool, tmp_path: Path
) -> None:
    good = json.loads(json.dumps(row).replace("\\ud83d", ""))
    rows = [good] * 25 + [row]
    source: Any = rows
    if as_file:
        source = str(tmp_path / "a.jsonl")
        Path(source).write_text("\n".join(map(json.dumps, rows)))
    message = rf"(line|row) 26: column '{column}' contains '\\ud83d', an unpaired surrogate"
    names = {"ignore_columns": ["note"]} if column == "note" else {}
    with pytest.raises(RowError, match=message):
        dataset(ByteTokenizer(AGENT), source, **names)
    skipping = dataset(ByteTokenizer(AGENT), source, on_error="skip", **names)
    skipped = skipping[25]
    assert isinstance(skipped, SkippedRow)
    assert skipped.reason == "cannot be used"
    assert skipping[24] == skipping[0]
    if dataset is not PreferenceDataset:
        with Batches(skipping, 5, shuffle=False, seed=0, pad_id=0) as batches:
            assert {row for _ in range(5) for row in next(batches).rows} == set(range(25))


def test_complete_surrogate_pairs_are_read_as_characters(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "\\ud83d\\ude00", "completion": "😀\\uD83D\\uDE00"}')
    assert ChatDataset(TOKENIZER, str(tmp_path / "a.jsonl"))[0] == example(
        question_text("😀"), answer_target("😀😀")
    )


# Keys added by Arrow


def calling(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return assistant("", tool_calls=[{"function": {"name": name, "arguments": arguments}}])


def schema(name: str, argument: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": argument}}}


CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            user(),
            calling("find", {"city": "Rome"}),
            {"role": "tool", "content": "Sun"},
            assistant(reasoning_content="Hm."),
        ],
        "tools": [schema("find", {"city": {"type": "string"}})],
    },
    {
        "messages": [
            user(),
            calling("turn", {"unit": "C", "to": {"deep": [1]}}),
            {"role": "tool", "content": "On"},
            assistant(weight=0),
        ],
        "tools": [schema("turn", {"unit": {"enum": ["C"]}}), schema("stop", {})],
    },
]
PAIRS = [
    {
        "prompt": [user()],
        "chosen": [calling("find", {"city": "Rome"})],
        "rejected": [assistant("B")],
        "tools": CHATS[0]["tools"],
    },
    {
        "prompt": [user()],
        "chosen": [assistant("A")],
        "rejected": [calling("turn", {"unit": "C"})],
        "tools": CHATS[1]["tools"],
    },
]


def parquet(rows: list[dict[str, Any]], folder: Path) -> str:
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return str(folder / "a.parquet")


def saved(rows: list[dict[str, Any]], folder: Path) -> str:
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return str(folder / "saved")


@pytest.mark.parametrize("write", [parquet, saved])
def test_structs_with_different_keys_match_the_same_json_lines(write: Any, tmp_path: Path) -> None:
    tokenizer = ByteTokenizer(AGENT)
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, CHATS)))
    source = write(CHATS, tmp_path)
    for options in [None, {"streaming": True}] if write is parquet else [None]:
        actual, expected = (
            ChatDataset(tokenizer, source, load_options=options),  # type: ignore[arg-type]
            ChatDataset(tokenizer, str(lines)),
        )
        assert [actual[i] for i in range(2)] == [expected[i] for i in range(2)]
        first, second = actual[0], actual[1]
        assert isinstance(first, Example)
        assert isinstance(second, Example)
        assert '<call>find {"city": "Rome"}</call>' in tokenizer.decode(first.tokens)
        assert f"TOOLS {json.dumps(CHATS[0]['tools'])}<|im_end|>" in tokenizer.decode(first.tokens)
        assert '<call>turn {"unit": "C", "to": {"deep": [1]}}</call>' in tokenizer.decode(second.tokens)
        assert "null" not in tokenizer.decode([*first.tokens, *second.tokens])


def test_preferences_with_different_keys_match_plain_rows(tmp_path: Path) -> None:
    tokenizer = ByteTokenizer(AGENT)
    actual, expected = (PreferenceDataset(tokenizer, source) for source in (parquet(PAIRS, tmp_path), PAIRS))
    assert [actual[i] for i in range(2)] == [expected[i] for i in range(2)]
    first = actual[0]
    assert isinstance(first, Pair)
    assert "null" not in tokenizer.decode(first.chosen.tokens)


def test_arguments_stored_as_text_keep_their_nulls(tmp_path: Path) -> None:
    call = assistant("", tool_calls=[{"function": {"name": "f", "arguments": '{"a": null}'}}])
    encoded = ChatDataset(ByteTokenizer(AGENT), parquet([{"messages": [user(), call]}], tmp_path))[0]
    assert encoded == example(question_text(), answer_target('<call>f {"a": null}</call>'))
