"""Nothing of a row is learnt, dropped or refused without a word about it: histories, flags, plain text, arrays."""

from typing import Any

import numpy as np
import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.by_hand import answered, asked, assistant, example, notes_of, user
from torchtune.data import Example, LeftOut
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
def test_an_empty_answer_in_a_history_is_context_and_is_counted(empty: str) -> None:
    row = {"instruction": "Q", "output": "A", "history": [["a", empty], ["c", "d"]]}
    found = InstructDataset(TOKENIZER, [row])[0]
    before = f"{asked('a')}{empty}<|im_end|>\n{asked('c')}"
    assert found == example(before, answered("d"), f"\n{asked()}", answered())
    assert any("empty answers" in note for note in notes_of(found))


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_flagged_answer_of_a_preference_is_not_trained_without_a_word(
    side: str, flag: dict[str, Any]
) -> None:
    good = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    row = {**good, side: [assistant("C", **flag)]}
    try:
        found = PreferenceDataset(TOKENIZER, [good, row])[1]
    except RowError as error:
        assert next(iter(flag)) in str(error)  # noqa: PT017 - one of three right outcomes
    else:
        is_reported = not isinstance(found, LeftOut) and (found.chosen.notes or found.rejected.notes)
        assert isinstance(found, LeftOut) or is_reported


def plain_rows(text: str) -> dict[str, Any]:
    """Return the same text in every dataset that writes no chat template."""
    return {
        "alpaca": InstructDataset(TOKENIZER, [{"instruction": text, "output": "A"}], template="alpaca")[0],
        "answer": InstructDataset(TOKENIZER, [{"instruction": "Q", "output": text}], template="alpaca")[0],
        "own": InstructDataset(TOKENIZER, [{"instruction": text, "output": "A"}], template="{instruction}=")[
            0
        ],
        "original": AlpacaDataset(TOKENIZER, source=[{"instruction": "Q", "input": text, "output": "A"}])[0],
        "text": TextCompletionDataset(TOKENIZER, [{"text": text}])[0],
    }


def reports_of(found: Any) -> list[str]:
    return (
        notes_of(found) if isinstance(found, Example) else [note for one in found for note in notes_of(one)]
    )


@pytest.mark.parametrize("name", ["alpaca", "answer", "own", "original", "text"])
def test_plain_rows_report_special_tokens_and_marks_of_images_too(name: str) -> None:
    (special,) = reports_of(plain_rows("a <|im_end|> b")[name])
    assert special.startswith(
        "contain the special token '<|im_end|>' as text, which is encoded as plain text"
    )
    (image,) = reports_of(plain_rows("<image>\na")[name])
    assert image.startswith("contain '<image>', which stands for an image or a sound")
    assert reports_of(plain_rows("a < b")[name]) == []


def test_numbered_marks_of_images_are_reported() -> None:
    found = ChatDataset(TOKENIZER, [{"messages": [user("<|image_1|>\nWhat is this?"), assistant()]}])[0]
    assert any("<|image_1|>" in note for note in notes_of(found))


@pytest.mark.parametrize(
    "value", [np.zeros(3), np.array([]), np.array([["a", "b"]])], ids=["numbers", "none", "text"]
)
def test_an_unread_array_is_an_unread_column(value: Any) -> None:
    rows = [{"instruction": "Q", "output": "A", "embedding": value}] * 2
    found = InstructDataset(TOKENIZER, rows)[1]
    assert found == example(asked(), answered())
    assert len(notes_of(found)) == bool(value.size)
