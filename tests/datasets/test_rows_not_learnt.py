"""Empty answers, flags of turns, and rows that lose their targets: they are left out and counted, or are an error."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.by_hand import BLOCKS, answered, asked, assistant, example, notes_of, user
from torchtune.config import lazy
from torchtune.data import Batches, Example, LeftOut, Pair
from torchtune.datasets import (
    AlpacaDataset,
    ChatDataset,
    ConcatDataset,
    InstructDataset,
    PreferenceDataset,
    TextCompletionDataset,
)

TOKENIZER = ByteTokenizer()
SECOND = [user("And?"), assistant("B")]
UNLEARNT = f"{asked()}A<|im_end|>\n{asked('And?')}"
"""Both questions, and the first answer as context."""


def read(row: dict[str, Any], **settings: Any) -> Example | LeftOut:
    return ChatDataset(TOKENIZER, [row], **settings)[0]


@pytest.mark.parametrize(
    "empty",
    [
        assistant(""),
        assistant(" \n\t"),
        assistant(None),
        assistant([]),
        {"role": "assistant"},
        assistant([{"type": "text", "text": ""}]),
        assistant("", tool_calls=[]),
        assistant("", reasoning="  "),
        {"from": "gpt", "value": ""},
    ],
    ids=str,
)
def test_an_empty_answer_is_context_and_is_counted(empty: dict[str, Any]) -> None:
    content = empty.get("content")
    said = content if isinstance(content, str) else ""
    found = read({"messages": [user(), empty, *SECOND]})
    assert found == example(f"{asked()}{said}<|im_end|>\n{asked('And?')}", answered("B"))
    assert notes_of(found) == ["have empty answers, which are not learnt: messages.1"]
    rows = [{"messages": [user(), empty]}, {"messages": [user(), assistant()]}]
    left_out = ChatDataset(TOKENIZER, rows)[0]
    assert left_out == LeftOut("have no turn of the assistant's to learn", "source: row 1")


def test_an_empty_last_answer_ends_the_row_before_its_question() -> None:
    turns = [user(), assistant(), user("And?"), assistant(" ")]
    for train_on in ("answers", "last"):
        found = read({"messages": turns}, train_on=train_on)
        assert found == example(asked(), answered())
        assert [note.partition(",")[0] for note in notes_of(found)] == [
            "have turns after the last answer that is learnt",
            "have empty answers",
        ]


@pytest.mark.parametrize(
    "flag",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"weight": False},
        {"train": False},
        {"training": False},
        {"loss": False},
    ],
)
def test_a_flagged_answer_is_context_in_every_shape(flag: dict[str, Any], tmp_path: Path) -> None:
    first = assistant(**flag)
    expected = example(UNLEARNT, answered("B"))
    assert read({"messages": [user(), first, *SECOND]}) == expected
    assert read({"messages": json.dumps([user(), first, *SECOND])}) == expected
    shared = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", **flag}, *SECOND]
    assert read({"conversations": shared}) == expected
    assert read({"prompt": "Q", "completion": [first, *SECOND]}) == expected
    table = pa.Table.from_pylist(
        [{"messages": [user(), first, *SECOND]}, {"messages": [user(), assistant()]}]
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    streamed = ChatDataset(TOKENIZER, str(tmp_path / "rows.parquet"), load_options={"streaming": True})
    assert [streamed[0], streamed[1]] == [expected, example(asked(), answered())]


def test_flags_choose_among_generation_blocks() -> None:
    dataset = ChatDataset(ByteTokenizer(BLOCKS), [{"messages": [user(), assistant(weight=0), *SECOND]}])
    assert dataset[0] == example(UNLEARNT, answered("B"))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"weight": "0"}, "expected a weight of 0 or 1, got '0'"),
        ({"weight": "0.0"}, "expected a weight of 0 or 1, got '0.0'"),
        ({"weight": 0.5}, "expected a weight of 0 or 1, got 0.5"),
        ({"weight": -1}, "expected a weight of 0 or 1, got -1"),
        ({"weight": [0]}, r"expected a weight of 0 or 1, got [0]"),
        ({"weight": float("nan")}, "expected a weight of 0 or 1, got nan"),
        ({"train": "false"}, "expected 'train' to be true or false, got 'false'"),
        ({"train": 0}, "expected 'train' to be true or false, got 0"),
        ({"loss": 0.0}, "expected 'loss' to be true or false, got 0.0"),
    ],
)
def test_an_odd_flag_is_an_error_of_its_row(flag: dict[str, Any], message: str) -> None:
    rows = [{"messages": [user(), assistant()]}, {"messages": [user(), assistant(**flag)]}]
    with pytest.raises(ValueError, match=r"source: row 2: 'messages\.1': ") as raised:
        ChatDataset(TOKENIZER, rows)
    assert message in str(raised.value)
    found = ChatDataset(TOKENIZER, rows, on_error="skip")[1]
    assert isinstance(found, LeftOut)
    assert message in found.place


@pytest.mark.parametrize("output", ["", " ", "\n\t\n"])
def test_a_blank_output_is_left_out_in_every_template(output: str) -> None:
    rows = [{"instruction": "Q", "output": output}, {"instruction": "Q", "output": "A"}]
    datasets: list[Any] = [
        InstructDataset(TOKENIZER, rows),
        InstructDataset(TOKENIZER, rows, template="{instruction}: "),
        AlpacaDataset(TOKENIZER, source=rows),
        InstructDataset(
            TOKENIZER,
            [{"q": row["instruction"], "a": row["output"]} for row in rows],
            columns={"instruction": "q", "output": "a"},
        ),
    ]
    for dataset in datasets:
        assert dataset[0] == LeftOut("have no answer", "source: row 1")
        assert isinstance(dataset[1], Example)


def test_a_blank_preferred_or_rejected_answer_is_left_out() -> None:
    good = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    for row in ({**good, "chosen": " "}, {**good, "rejected": ""}, {**good, "rejected": [assistant(None)]}):
        dataset = PreferenceDataset(TOKENIZER, [row, good])
        assert dataset[0] == LeftOut("have an empty answer", "source: row 1")
        assert isinstance(dataset[1], Pair)


# Datasets of which nothing is left

LONG = [{"instruction": "Q" * 50, "output": "A"}] * 3
CALLS = [{"messages": [user(), assistant(None, tool_calls=[{"name": "f", "arguments": {}}])]}] * 3


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (lazy(InstructDataset, source=LONG, max_seq_len=20), "have no target within 20 tokens"),
        (lazy(InstructDataset, source=LONG, max_seq_len=20, truncate="drop"), "are longer than 20 tokens"),
        (
            lazy(AlpacaDataset, source=LONG, max_seq_len=20, train_on_input=False),
            "have no target within 20 tokens",
        ),
        (lazy(ChatDataset, source=CALLS, on_error="skip"), "cannot be used"),
        (
            lazy(TextCompletionDataset, source=[{"text": "abcd"}] * 3, max_seq_len=3, truncate="drop"),
            "are longer than 3 tokens",
        ),
        (
            lazy(ConcatDataset, datasets=[lazy(InstructDataset, source=LONG, max_seq_len=20)]),
            "have no target within 20 tokens",
        ),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"packed_length": 64}, {"group_by_length": True}])
def test_rows_that_all_lose_their_targets_are_an_error_before_a_step(
    dataset: Any, reason: str, settings: dict[str, Any]
) -> None:
    batches = Batches(dataset(TOKENIZER), 2, shuffle=True, seed=0, pad_id=0, **settings)
    message = f"none of 3 rows gives anything to learn: 3 of 3 rows {reason} and are left out; the first: source: row "
    for look in (lambda: batches.steps_in(1), lambda: next(batches)):
        with pytest.raises(ValueError, match="none of 3 rows") as raised:
            look()
        assert str(raised.value).startswith(message)


def test_skipped_rows_of_a_stream_are_an_error_where_none_is_left(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"instruction": "Q", "output": None}] * 3), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no row can be learnt from: 3 of 3 cannot be used"):
        InstructDataset(
            TOKENIZER, str(tmp_path / "a.parquet"), load_options={"streaming": True}, on_error="skip"
        )


def test_one_usable_row_among_others_is_every_step(caplog: pytest.LogCaptureFixture) -> None:
    rows = [*CALLS, {"messages": [user(), assistant()]}]
    with caplog.at_level(logging.WARNING):
        batches = Batches(ChatDataset(TOKENIZER, rows, on_error="skip"), 2, shuffle=False, seed=0, pad_id=0)
        assert batches.steps_in(2) == 2
        batch = next(batches)
    assert batch.tokens.tolist() == [example(asked(), answered()).tokens[:-1]]
    assert batches.epoch == 1
    assert "epoch 1: 3 of 4 rows cannot be used and are left out; the first: source: row 1" in caplog.text
