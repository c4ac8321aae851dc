"""Each column is read once or reported as unused, and rows for preference tuning are rejected by other datasets."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.expected_examples import (
    Piece,
    answer_target,
    assistant,
    example,
    notes_of,
    question_text,
    user,
)
from torchtune.data import Example, Pair, alpaca_prompt
from torchtune.datasets import (
    AlpacaDataset,
    ChatDataset,
    InstructDataset,
    PreferenceDataset,
    TextCompletionDataset,
)

TOKENIZER = ByteTokenizer()
SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n"


# Renamed columns


@pytest.mark.parametrize(
    ("row", "columns", "question"),
    [
        ({"input": "Q", "output": "A"}, {"instruction": "input", "output": "output"}, "Q"),
        ({"input": "Q", "output": "A"}, {"instruction": "input"}, "Q"),
        (
            {"input": "Q", "answer": "A", "more": "M"},
            {"instruction": "input", "input": "more", "output": "answer"},
            "Q\n\nM",
        ),
        ({"instruction": "A", "output": "Q"}, {"instruction": "output", "output": "instruction"}, "Q"),
        (
            {"output": "Q", "instruction": "M", "input": "A"},
            {"instruction": "output", "input": "instruction", "output": "input"},
            "Q\n\nM",
        ),
        ({"system": "Q", "output": "A"}, {"instruction": "system"}, "Q"),
        ({"instruction": "Q", "history": "M", "output": "A"}, {"input": "history"}, "Q\n\nM"),
    ],
)
def test_a_column_mapped_to_another_field_is_read_once(
    row: dict[str, str], columns: dict[str, str], question: str, tmp_path: Path
) -> None:
    expected = example(question_text(question), answer_target())
    assert InstructDataset(TOKENIZER, [row], columns=columns)[0] == expected
    (tmp_path / "a.csv").write_text(f"{','.join(row)}\n" + ",".join(f'"{value}"' for value in row.values()))
    from_file = InstructDataset(TOKENIZER, str(tmp_path / "a.csv"), columns=columns)[0]
    assert from_file == expected
    assert notes_of(from_file) == []


def test_a_mapped_column_is_read_once_in_plain_prompts() -> None:
    rows, columns = [{"input": "Q", "output": "A"}], {"instruction": "input", "output": "output"}
    alpaca = AlpacaDataset(TOKENIZER, source=rows, columns=columns, train_on_input=False)[0]
    assert isinstance(alpaca, Example)
    assert TOKENIZER.decode(alpaca.tokens) == f"<|bos|>{alpaca_prompt('Q')}A<|eos|>"
    custom = InstructDataset(TOKENIZER, rows, columns=columns, template="{instruction}/{input}=")[0]
    assert isinstance(custom, Example)
    assert TOKENIZER.decode(custom.tokens) == "<|bos|>Q/=A<|eos|>"


def test_a_mapped_column_is_read_once_in_preferences() -> None:
    row = {"prompt": "A", "question": "Q", "worse": "B"}
    columns = {"chosen": "prompt", "rejected": "worse", "prompt": "question"}
    pair = PreferenceDataset(TOKENIZER, [row], columns=columns)[0]
    assert pair == Pair(
        example(question_text(), answer_target()), example(question_text(), answer_target("B"))
    )
    with pytest.raises(
        ValueError, match="no column 'messages', and the chosen and rejected conversations do not begin"
    ):
        PreferenceDataset(TOKENIZER, [{"prompt": "A", "rejected": "B"}], columns={"chosen": "prompt"})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"instruction": "q", "output": "q"},
            "columns: the column 'q' is used for both instruction and output; use it for one",
        ),
        (
            {"instruction": "q", "input": "q", "output": "a"},
            "columns: the column 'q' is used for both instruction and input",
        ),
        (
            {"instruction": "output"},
            "columns: the column 'output' is used for instruction, so it cannot also be used for output",
        ),
    ],
)
def test_a_column_mapped_to_two_fields_raises(columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match="columns: ") as raised:
        InstructDataset(TOKENIZER, [{"q": "Q", "a": "A", "output": "A"}], columns=columns)
    assert message in str(raised.value)


# System turns and earlier turns


@pytest.mark.parametrize("as_text", [True, False])
def test_a_system_column_is_read_as_a_system_turn_in_every_format(as_text: bool) -> None:
    turns: Any = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    column = json.dumps(turns) if as_text else turns
    expected = example(SYSTEM + question_text(), answer_target())
    rows = [{"conversations": column}, {"prompt": "Q", "completion": "A"}, {"messages": column}]
    for row in rows:
        assert ChatDataset(TOKENIZER, [{**row, "system": "Be kind."}], system="Not this.")[0] == expected
        for empty in ("", " \n", None):
            assert ChatDataset(TOKENIZER, [{**row, "system": empty}], system="Be kind.")[0] == expected
    row = {"instruction": "Q", "output": "A", "system": "Be kind."}
    assert InstructDataset(TOKENIZER, [row], system="Not this.")[0] == expected
    assert InstructDataset(TOKENIZER, [{**row, "system": None}], system="Be kind.")[0] == expected
    pair = PreferenceDataset(
        TOKENIZER, [{"prompt": "Q", "chosen": "A", "rejected": "B", "system": "Be kind."}]
    )[0]
    assert pair == Pair(expected, example(SYSTEM + question_text(), answer_target("B")))


def test_earlier_answers_in_a_history_are_targets_in_order(tmp_path: Path) -> None:
    row = {
        "instruction": "Q",
        "input": "I",
        "output": "A",
        "history": [["a", "b"], ["c", "d"]],
        "system": "Be kind.",
    }
    first = f"{SYSTEM}{question_text('a')}"
    later: list[Piece] = [
        answer_target("b"),
        f"\n{question_text('c')}",
        answer_target("d"),
        "\n" + question_text("Q\n\nI"),
        answer_target(),
    ]
    expected = example(first, *later)
    assert InstructDataset(TOKENIZER, [row])[0] == expected
    renamed = {"system": "persona", "history": "before"}
    other = {renamed.get(name, name): value for name, value in row.items()}
    assert InstructDataset(TOKENIZER, [other], columns=renamed)[0] == expected
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for options in (None, {"streaming": True}):
        assert InstructDataset(TOKENIZER, str(tmp_path / "a.parquet"), load_options=options)[0] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("history", ['[["a", "b"]]', [["a"]], [["a", None]], [["a", "b", "c"]], [user("a")]])
def test_a_history_that_is_not_a_list_of_pairs_raises(history: Any) -> None:
    with pytest.raises(
        ValueError, match=r"row 1: 'history': expected a list of pairs \[question, answer\], got"
    ):
        InstructDataset(TOKENIZER, [{"instruction": "Q", "output": "A", "history": history}])


# Unused columns

CHAT = {"messages": [user(), assistant()]}
TASK = {"instruction": "Q", "output": "A"}


@pytest.mark.parametrize(
    ("dataset", "row", "unused"),
    [
        (ChatDataset, {**CHAT, "system_prompt": "S"}, "'system_prompt'"),
        (
            ChatDataset,
            {"messages": [{"role": "system", "content": "T"}, *CHAT["messages"]], "system": "S"},
            "'system'",
        ),
        (ChatDataset, {**CHAT, "conversations": [user("S")]}, "'conversations'"),
        (ChatDataset, {**CHAT, "tools": [], "functions": "", "images": ["a.png"]}, "'images'"),
        (InstructDataset, {**TASK, "tools": [{"name": "f"}], "score": 0}, "'tools', 'score'"),
        (InstructDataset, {**TASK, "flag": False}, "'flag'"),
        (AlpacaDataset, {**TASK, "system": "S", "history": [["a", "b"]]}, "'system', 'history'"),
        (
            PreferenceDataset,
            {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": 0.5, "history": [["a", "b"]]},
            "'margin', 'history'",
        ),
        (TextCompletionDataset, {"text": "A", "title": "T"}, "'title'"),
    ],
)
def test_unused_columns_are_reported_once(
    dataset: Any, row: dict[str, Any], unused: str, caplog: pytest.LogCaptureFixture
) -> None:
    source: dict[str, Any] = {"source": [row, row, row]}
    with caplog.at_level(logging.WARNING):
        reporting = dataset(TOKENIZER, **source)
    messages = [
        record.getMessage() for record in caplog.records if record.name.startswith("torchtune.datasets")
    ]
    assert len(messages) == 1
    columns = "an unused column" if "," not in unused else "unused columns"
    assert messages[0].startswith(f"3 of 3 rows have {columns}: {unused}; first occurrence: source: row 1: ")
    names = [name.strip("'") for name in unused.split(", ")]
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        quiet = dataset(TOKENIZER, **source, ignore_columns=names)
    assert not [r for r in caplog.records if r.name.startswith("torchtune.datasets")]
    assert quiet[2] == reporting[2]
    with pytest.raises(ValueError, match="ignore_columns: no row has a column 'nothing'; remove it"):
        dataset(TOKENIZER, **source, ignore_columns=[*names, "nothing"])


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    ("dataset", "settings"),
    [(ChatDataset, {}), (InstructDataset, {"columns": {"instruction": "prompt", "output": "completion"}})],
)
def test_rows_with_a_boolean_label_are_rejected(
    dataset: Any, settings: dict[str, Any], name: str, label: bool, tmp_path: Path
) -> None:
    rows = [{"prompt": "Q", "completion": "A", "label": label}] * 2
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    message = r"(line|row) 1: the rows have a boolean column 'label', like data for KTO"
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match=message):
            dataset(TOKENIZER, str(path), on_error=on_error, **settings)
    allowed = dataset(TOKENIZER, str(path), ignore_columns=["label"], **settings)
    assert allowed[0] == example(question_text(), answer_target())


PAIR = {"chosen": [assistant()], "rejected": [assistant("B")]}


@pytest.mark.parametrize(
    ("dataset", "row"),
    [
        (ChatDataset, {**CHAT, "chosen": "A", "rejected": "B"}),
        (ChatDataset, {"conversations": json.dumps(CHAT["messages"]), **PAIR}),
        (ChatDataset, {"prompt": "Q", "completion": "A", **PAIR}),
        (InstructDataset, {**TASK, "chosen": "A", "rejected": "B"}),
        (AlpacaDataset, {**TASK, **PAIR}),
    ],
)
def test_preference_rows_are_rejected_by_other_datasets(dataset: Any, row: dict[str, Any]) -> None:
    message = (
        f"source: row 1: the rows have columns 'chosen' and 'rejected', like data for preference tuning, which"
        f" {dataset.__name__} does not read"
    )
    with pytest.raises(ValueError, match=message):
        dataset(TOKENIZER, source=[row])
    names = ["chosen", "rejected"]
    assert isinstance(dataset(TOKENIZER, source=[row], ignore_columns=names)[0], Example)


def test_a_conversation_without_an_answer_raises() -> None:
    turns = [user("a"), assistant("b"), user()]
    row = {"prompt": turns, "chosen": "A", "rejected": "B"}
    with pytest.raises(
        ValueError, match="no 'prompt' and 'completion'; the row's columns are 'prompt', 'chosen'"
    ):
        ChatDataset(TOKENIZER, [row])
    row = {"conversations": [user()], **PAIR}
    with pytest.raises(ValueError, match="row 1: no row can be trained on: 1 of 1 have no assistant turn"):
        ChatDataset(TOKENIZER, [row])
