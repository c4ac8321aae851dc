"""The demo's rows are complete, and its questions do not occur in the training rows."""

import json
import re
from collections import Counter
from pathlib import Path

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import Example
from torchtune.datasets import InstructDataset

DEMO = Path(__file__).parents[2] / "demo"
ROWS: list[dict[str, str]] = json.loads((DEMO / "assistant.json").read_text(encoding="utf-8"))
PROBES: list[dict[str, str | list[str]]] = json.loads((DEMO / "questions.json").read_text(encoding="utf-8"))
HELD_OUT: list[dict[str, str]] = json.loads((DEMO / "held_out.json").read_text(encoding="utf-8"))
NAME, MAKER = "Bramble", "Hedgerow Lab"
OVERLAP_BOUND = 0.75
"""The maximum overlap of a probe and a training row, as a fraction of their combined distinct words. It
permits a common sentence pattern, such as the questions about capitals, but not the same question."""


def words(text: object) -> set[str]:
    """Return the distinct words in text, in lower case."""
    return set(re.findall(r"\w+", str(text).lower().replace("'", "")))


def task(row: dict[str, str]) -> str:
    return f"{row['instruction']} {row['input']}"


def identity_rows() -> list[dict[str, str]]:
    return [row for row in ROWS if NAME in row["output"]]


def test_every_row_has_all_fields() -> None:
    for row in ROWS:
        assert list(row) == ["instruction", "input", "output"]
        assert row["instruction"] == row["instruction"].strip() != ""
        assert row["output"] == row["output"].strip() != ""


def test_the_number_of_rows_matches_the_demo() -> None:
    assert 55 <= len(identity_rows()) <= 65
    assert 195 <= len(ROWS) - len(identity_rows()) <= 205
    assert sum(row["input"] != "" for row in ROWS) >= 20


def test_no_task_is_repeated() -> None:
    tasks = Counter(" ".join(re.findall(r"\w+", task(row).lower())) for row in ROWS)
    assert [text for text, count in tasks.items() if count > 1] == []


def test_answers_are_short() -> None:
    assert max(len(row["output"].split()) for row in ROWS) <= 20


def test_the_maker_occurs_only_in_answers_with_the_model_name() -> None:
    assert all(MAKER not in row["output"] for row in ROWS if NAME not in row["output"])
    assert all(NAME not in task(row) and MAKER not in task(row) for row in ROWS)
    assert sum(MAKER in row["output"] for row in identity_rows()) >= 30


def test_questions_of_both_kinds_exist() -> None:
    kinds = Counter(str(probe["kind"]) for probe in PROBES)
    assert set(kinds) == {"identity", "general"}
    assert min(kinds.values()) >= 6
    for probe in PROBES:
        assert list(probe) == ["question", "kind", "expected"]
        assert probe["expected"] == [NAME] or (probe["kind"] == "general" and probe["expected"])


def test_the_held_out_rows_answer_the_questions() -> None:
    assert [row["instruction"] for row in HELD_OUT] == [probe["question"] for probe in PROBES]
    for row, probe in zip(HELD_OUT, PROBES, strict=True):
        assert any(text in row["output"] for text in probe["expected"])
        assert (NAME in row["output"] or MAKER in row["output"]) == (probe["kind"] == "identity")


def test_no_demo_question_is_in_the_training_rows() -> None:
    for probe in PROBES:
        question = words(probe["question"])
        for row in ROWS:
            trained = words(task(row))
            assert len(question & trained) / len(question | trained) <= OVERLAP_BOUND, (probe, row)


def test_no_row_contains_the_answer_to_a_question() -> None:
    assert ["Paris"] in [probe["expected"] for probe in PROBES]
    names = [
        words(text) for p in PROBES if p["kind"] == "general" for text in p["expected"] if text[0].isupper()
    ]
    for row in ROWS:
        row_words = words(list(row.values()))
        assert not any(name <= row_words for name in [*names, {"france"}]), row


def test_questions_about_other_capitals_have_the_same_answer_pattern() -> None:
    pattern = re.compile(r"The capital of [A-Z]\w+ is [A-Z]\w+\.")
    assert sum(pattern.fullmatch(row["output"]) is not None for row in ROWS) >= 10


def test_the_rows_can_be_loaded_as_a_dataset() -> None:
    dataset = InstructDataset(ByteTokenizer(), str(DEMO / "assistant.json"))
    assert len(dataset) == len(ROWS)
    assert all(isinstance(dataset[i], Example) for i in range(len(dataset)))
