"""Dropped and masked parts of rows are reported: empty answers, flagged turns, special tokens and unused arrays."""

from typing import Any

import numpy as np
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.expected_examples import answer_target, assistant, example, notes_of, question_text, user
from torchtune.data import Example, SkippedRow
from torchtune.datasets import (
    AlpacaDataset,
    ChatDataset,
    InstructDataset,
    PreferenceDataset,
    RowError,
    TextCompletionDataset,
)

TOKENIZER = ByteTokenizer()


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_answer_in_a_history_is_not_a_target_and_is_reported(empty: str) -> None:
    row = {"instruction": "Q", "output": "A", "history": [["a", empty], ["c", "d"]]}
    encoded = InstructDataset(TOKENIZER, [row])[0]
    before = f"{question_text('a')}{empty}<|im_end|>\n{question_text('c')}"
    assert encoded == example(before, answer_target("d"), f"\n{question_text()}", answer_target())
    assert any("empty answers" in note for note in notes_of(encoded))


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_masked_answer_in_a_preference_row_raises_or_is_reported(side: str, flag: dict[str, Any]) -> None:
    good = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    row = {**good, side: [assistant("C", **flag)]}
    try:
        encoded = PreferenceDataset(TOKENIZER, [good, row])[1]
    except RowError as error:
        assert next(iter(flag)) in str(error)  # noqa: PT017 - one of three acceptable outcomes
    else:
        is_reported = not isinstance(encoded, SkippedRow) and (encoded.chosen.notes or encoded.rejected.notes)
        assert isinstance(encoded, SkippedRow) or is_reported


def plain_rows(text: str) -> dict[str, Any]:
    """Encode the same text with every dataset that uses no chat template."""
    return {
        "alpaca": InstructDataset(TOKENIZER, [{"instruction": text, "output": "A"}], template="alpaca")[0],
        "answer": InstructDataset(TOKENIZER, [{"instruction": "Q", "output": text}], template="alpaca")[0],
        "own": InstructDataset(TOKENIZER, [{"instruction": text, "output": "A"}], template="{instruction}=")[
            0
        ],
        "original": AlpacaDataset(TOKENIZER, source=[{"instruction": "Q", "input": text, "output": "A"}])[0],
        "text": TextCompletionDataset(TOKENIZER, [{"text": text}])[0],
    }


def reports_of(encoded: Any) -> list[str]:
    return (
        notes_of(encoded)
        if isinstance(encoded, Example)
        else [note for piece in encoded for note in notes_of(piece)]
    )


@pytest.mark.parametrize("name", ["alpaca", "answer", "own", "original", "text"])
def test_plain_rows_report_special_tokens_and_image_placeholders(name: str) -> None:
    (special,) = reports_of(plain_rows("a <|im_end|> b")[name])
    assert special.startswith("contain the special token '<|im_end|>', which is encoded as plain text")
    (image,) = reports_of(plain_rows("<image>\na")[name])
    assert image.startswith("contain '<image>', a placeholder for an image, video or sound")
    assert reports_of(plain_rows("a < b")[name]) == []


def test_numbered_image_placeholders_are_reported() -> None:
    encoded = ChatDataset(TOKENIZER, [{"messages": [user("<|image_1|>\nWhat is this?"), assistant()]}])[0]
    assert any("<|image_1|>" in note for note in notes_of(encoded))


@pytest.mark.parametrize(
    "value", [np.zeros(3), np.array([]), np.array([["a", "b"]])], ids=["numbers", "empty", "text"]
)
def test_only_nonempty_arrays_are_reported_as_unused_columns(value: Any) -> None:
    rows = [{"instruction": "Q", "output": "A", "embedding": value}] * 2
    encoded = InstructDataset(TOKENIZER, rows)[1]
    assert encoded == example(question_text(), answer_target())
    assert len(notes_of(encoded)) == bool(value.size)
