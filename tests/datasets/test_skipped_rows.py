"""Empty answers, flagged turns and rows that lose their targets are skipped and counted, or raise an error."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.expected_examples import (
    BLOCKS,
    answer_target,
    assistant,
    example,
    notes_of,
    question_text,
    user,
)
from torchtune.config import lazy
from torchtune.data import Batches, Example, Pair, SkippedRow
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
FIRST_ANSWER_AS_CONTEXT = f"{question_text()}A<|im_end|>\n{question_text('And?')}"
"""Both questions and the first answer, none of which are targets."""


def read(row: dict[str, Any], **settings: Any) -> Example | SkippedRow:
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
def test_an_empty_answer_is_not_a_target_and_is_reported(empty: dict[str, Any]) -> None:
    content = empty.get("content")
    text = content if isinstance(content, str) else ""
    encoded = read({"messages": [user(), empty, *SECOND]})
    assert encoded == example(
        f"{question_text()}{text}<|im_end|>\n{question_text('And?')}", answer_target("B")
    )
    assert notes_of(encoded) == ["have empty answers, which are not trained on: messages.1"]
    rows = [{"messages": [user(), empty]}, {"messages": [user(), assistant()]}]
    skipped = ChatDataset(TOKENIZER, rows)[0]
    assert skipped == SkippedRow("have no assistant turn to train on", "source: row 1")


def test_an_empty_last_answer_is_dropped_with_its_question() -> None:
    turns = [user(), assistant(), user("And?"), assistant(" ")]
    for train_on in ("answers", "last"):
        encoded = read({"messages": turns}, train_on=train_on)
        assert encoded == example(question_text(), answer_target())
        assert [note.partition(",")[0] for note in notes_of(encoded)] == [
            "have turns after the last answer that is trained on",
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
def test_a_flagged_answer_is_not_a_target_in_any_format(flag: dict[str, Any], tmp_path: Path) -> None:
    first = assistant(**flag)
    expected = example(FIRST_ANSWER_AS_CONTEXT, answer_target("B"))
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
    assert [streamed[0], streamed[1]] == [expected, example(question_text(), answer_target())]


def test_flags_apply_to_templates_with_generation_blocks() -> None:
    dataset = ChatDataset(ByteTokenizer(BLOCKS), [{"messages": [user(), assistant(weight=0), *SECOND]}])
    assert dataset[0] == example(FIRST_ANSWER_AS_CONTEXT, answer_target("B"))


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
def test_an_invalid_flag_raises_an_error_with_the_row(flag: dict[str, Any], message: str) -> None:
    rows = [{"messages": [user(), assistant()]}, {"messages": [user(), assistant(**flag)]}]
    with pytest.raises(ValueError, match=r"source: row 2: 'messages\.1': ") as raised:
        ChatDataset(TOKENIZER, rows)
    assert message in str(raised.value)
    encoded = ChatDataset(TOKENIZER, rows, on_error="skip")[1]
    assert isinstance(encoded, SkippedRow)
    assert message in encoded.location


@pytest.mark.parametrize("output", ["", " ", "\n\t\n"])
def test_a_blank_output_is_skipped_with_every_template(output: str) -> None:
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
        assert dataset[0] == SkippedRow("have no answer", "source: row 1")
        assert isinstance(dataset[1], Example)


def test_a_blank_chosen_or_rejected_answer_is_skipped() -> None:
    good = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    for row in ({**good, "chosen": " "}, {**good, "rejected": ""}, {**good, "rejected": [assistant(None)]}):
        dataset = PreferenceDataset(TOKENIZER, [row, good])
        assert dataset[0] == SkippedRow("have an empty answer", "source: row 1")
        assert isinstance(dataset[1], Pair)


# Datasets in which all rows are skipped

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
def test_a_dataset_without_any_target_raises_before_the_first_step(
    dataset: Any, reason: str, settings: dict[str, Any]
) -> None:
    batches = Batches(dataset(TOKENIZER), 2, shuffle=True, seed=0, pad_id=0, **settings)
    message = (
        f"no row has a target (3 rows): 3 of 3 rows {reason} and are skipped; first occurrence: source: row "
    )
    for iterate in (lambda: batches.steps_in(1), lambda: next(batches)):
        with pytest.raises(ValueError, match="no row has a target") as raised:
            iterate()
        assert str(raised.value).startswith(message)


def test_a_stream_in_which_all_rows_are_skipped_raises(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"instruction": "Q", "output": None}] * 3), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no row can be trained on: 3 of 3 cannot be used"):
        InstructDataset(
            TOKENIZER, str(tmp_path / "a.parquet"), load_options={"streaming": True}, on_error="skip"
        )


def test_a_single_usable_row_is_in_every_step(caplog: pytest.LogCaptureFixture) -> None:
    rows = [*CALLS, {"messages": [user(), assistant()]}]
    with caplog.at_level(logging.WARNING):
        batches = Batches(ChatDataset(TOKENIZER, rows, on_error="skip"), 2, shuffle=False, seed=0, pad_id=0)
        assert batches.steps_in(2) == 2
        batch = next(batches)
    assert batch.tokens.tolist() == [example(question_text(), answer_target()).tokens[:-1]]
    assert batches.epoch == 1
    assert (
        "epoch 1: 3 of 4 rows cannot be used and are skipped; first occurrence: source: row 1" in caplog.text
    )
