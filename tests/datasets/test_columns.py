"""Columns are read once, or are named as unread; rows for preference tuning are no good answers."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.by_hand import Piece, answered, asked, assistant, example, notes_of, user
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


# Columns under other names


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
def test_a_column_that_is_named_for_another_is_read_once(
    row: dict[str, str], columns: dict[str, str], question: str, tmp_path: Path
) -> None:
    expected = example(asked(question), answered())
    assert InstructDataset(TOKENIZER, [row], columns=columns)[0] == expected
    (tmp_path / "a.csv").write_text(f"{','.join(row)}\n" + ",".join(f'"{value}"' for value in row.values()))
    found = InstructDataset(TOKENIZER, str(tmp_path / "a.csv"), columns=columns)[0]
    assert found == expected
    assert notes_of(found) == []


def test_plain_prompts_read_a_column_once_too() -> None:
    rows, columns = [{"input": "Q", "output": "A"}], {"instruction": "input", "output": "output"}
    found = AlpacaDataset(TOKENIZER, source=rows, columns=columns, train_on_input=False)[0]
    assert isinstance(found, Example)
    assert TOKENIZER.decode(found.tokens) == f"<|bos|>{alpaca_prompt('Q')}A<|eos|>"
    own = InstructDataset(TOKENIZER, rows, columns=columns, template="{instruction}/{input}=")[0]
    assert isinstance(own, Example)
    assert TOKENIZER.decode(own.tokens) == "<|bos|>Q/=A<|eos|>"


def test_preferences_read_a_column_once_too() -> None:
    row = {"prompt": "A", "question": "Q", "worse": "B"}
    columns = {"chosen": "prompt", "rejected": "worse", "prompt": "question"}
    pair = PreferenceDataset(TOKENIZER, [row], columns=columns)[0]
    assert pair == Pair(example(asked(), answered()), example(asked(), answered("B")))
    with pytest.raises(
        ValueError, match="no column 'messages', and what is chosen and rejected do not begin"
    ):
        PreferenceDataset(TOKENIZER, [{"prompt": "A", "rejected": "B"}], columns={"chosen": "prompt"})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"instruction": "q", "output": "q"},
            "columns: 'q' is named for both instruction and output; name it once",
        ),
        (
            {"instruction": "q", "input": "q", "output": "a"},
            "columns: 'q' is named for both instruction and input",
        ),
        (
            {"instruction": "output"},
            "columns: 'output' is named for instruction; name a column for the output too",
        ),
    ],
)
def test_a_column_for_two_things_is_an_error(columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match="columns: ") as raised:
        InstructDataset(TOKENIZER, [{"q": "Q", "a": "A", "output": "A"}], columns=columns)
    assert message in str(raised.value)


# A system's turn and earlier turns


@pytest.mark.parametrize("as_text", [True, False])
def test_a_system_column_is_a_turn_in_every_shape(as_text: bool) -> None:
    turns: Any = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    column = json.dumps(turns) if as_text else turns
    expected = example(SYSTEM + asked(), answered())
    rows = [{"conversations": column}, {"prompt": "Q", "completion": "A"}, {"messages": column}]
    for row in rows:
        assert ChatDataset(TOKENIZER, [{**row, "system": "Be kind."}], system="Not this.")[0] == expected
        for nothing in ("", " \n", None):
            assert ChatDataset(TOKENIZER, [{**row, "system": nothing}], system="Be kind.")[0] == expected
    row = {"instruction": "Q", "output": "A", "system": "Be kind."}
    assert InstructDataset(TOKENIZER, [row], system="Not this.")[0] == expected
    assert InstructDataset(TOKENIZER, [{**row, "system": None}], system="Be kind.")[0] == expected
    pair = PreferenceDataset(
        TOKENIZER, [{"prompt": "Q", "chosen": "A", "rejected": "B", "system": "Be kind."}]
    )[0]
    assert pair == Pair(expected, example(SYSTEM + asked(), answered("B")))


def test_earlier_turns_of_a_task_are_learnt_in_their_order(tmp_path: Path) -> None:
    row = {
        "instruction": "Q",
        "input": "I",
        "output": "A",
        "history": [["a", "b"], ["c", "d"]],
        "system": "Be kind.",
    }
    first = f"{SYSTEM}{asked('a')}"
    rest: list[Piece] = [
        answered("b"),
        f"\n{asked('c')}",
        answered("d"),
        "\n" + asked("Q\n\nI"),
        answered(),
    ]
    expected = example(first, *rest)
    assert InstructDataset(TOKENIZER, [row])[0] == expected
    renamed = {"system": "persona", "history": "before"}
    other = {renamed.get(name, name): value for name, value in row.items()}
    assert InstructDataset(TOKENIZER, [other], columns=renamed)[0] == expected
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for options in (None, {"streaming": True}):
        assert InstructDataset(TOKENIZER, str(tmp_path / "a.parquet"), load_options=options)[0] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("history", ['[["a", "b"]]', [["a"]], [["a", None]], [["a", "b", "c"]], [user("a")]])
def test_a_history_of_another_form_is_an_error(history: Any) -> None:
    with pytest.raises(ValueError, match="row 1: 'history': expected a list of pairs, each a question and"):
        InstructDataset(TOKENIZER, [{"instruction": "Q", "output": "A", "history": history}])


# Columns that nothing reads

CHAT = {"messages": [user(), assistant()]}
TASK = {"instruction": "Q", "output": "A"}


@pytest.mark.parametrize(
    ("dataset", "row", "unread"),
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
def test_columns_that_nothing_reads_are_named_once(
    dataset: Any, row: dict[str, Any], unread: str, caplog: pytest.LogCaptureFixture
) -> None:
    source: dict[str, Any] = {"source": [row, row, row]}
    with caplog.at_level(logging.WARNING):
        found = dataset(TOKENIZER, **source)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("torchtune.datasets")]
    assert len(said) == 1
    what = "a column that is" if "," not in unread else "columns that are"
    assert said[0].startswith(f"3 of 3 rows have {what} not read: {unread}; the first: source: row 1: ")
    names = [name.strip("'") for name in unread.split(", ")]
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        quiet = dataset(TOKENIZER, **source, ignore_columns=names)
    assert not [r for r in caplog.records if r.name.startswith("torchtune.datasets")]
    assert quiet[2] == found[2]
    with pytest.raises(ValueError, match="ignore_columns: no row has a column 'nothing'"):
        dataset(TOKENIZER, **source, ignore_columns=[*names, "nothing"])


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    ("dataset", "settings"),
    [(ChatDataset, {}), (InstructDataset, {"columns": {"instruction": "prompt", "output": "completion"}})],
)
def test_labelled_answers_are_no_good_answers(
    dataset: Any, settings: dict[str, Any], name: str, label: bool, tmp_path: Path
) -> None:
    rows = [{"prompt": "Q", "completion": "A", "label": label}] * 2
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    message = r"(line|row) 1: the rows have a column 'label' of true or false, as those for KTO have"
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match=message):
            dataset(TOKENIZER, str(path), on_error=on_error, **settings)
    allowed = dataset(TOKENIZER, str(path), ignore_columns=["label"], **settings)
    assert allowed[0] == example(asked(), answered())


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
def test_preference_rows_are_no_good_answers(dataset: Any, row: dict[str, Any]) -> None:
    message = (
        f"source: row 1: the rows have columns 'chosen' and 'rejected', as those for preference tuning have, which"
        f" {dataset.__name__} does not read"
    )
    with pytest.raises(ValueError, match=message):
        dataset(TOKENIZER, source=[row])
    names = ["chosen", "rejected"]
    assert isinstance(dataset(TOKENIZER, source=[row], ignore_columns=names)[0], Example)


def test_a_history_that_only_asks_is_no_answer() -> None:
    turns = [user("a"), assistant("b"), user()]
    row = {"prompt": turns, "chosen": "A", "rejected": "B"}
    with pytest.raises(
        ValueError, match="no 'prompt' and 'completion'; the columns found are 'prompt', 'chosen'"
    ):
        ChatDataset(TOKENIZER, [row])
    row = {"conversations": [user()], **PAIR}
    with pytest.raises(
        ValueError, match="row 1: no row can be learnt from: 1 of 1 have no turn of the assistant's"
    ):
        ChatDataset(TOKENIZER, [row])
