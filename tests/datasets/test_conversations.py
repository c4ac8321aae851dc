"""Conversations, plain text and preferences are encoded from all supported formats."""

import json
import re
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import IGNORE_INDEX, Example, Pair, SkippedRow, alpaca_prompt
from torchtune.datasets import (
    ChatDataset,
    InstructDataset,
    PreferenceDataset,
    RowError,
    SlimOrcaDataset,
    TextCompletionDataset,
)

TOKENIZER = ByteTokenizer()
OPENAI = [
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "No."},
]
SHAREGPT = [{"from": f, "value": t["content"]} for f, t in zip(["human", "gpt"] * 2, OPENAI, strict=True)]


def targets(example: Any) -> str:
    """Decode the targets of an example."""
    assert isinstance(example, Example)
    return TOKENIZER.decode([label for label in example.labels if label != IGNORE_INDEX])


def test_openai_and_sharegpt_turns_produce_the_same_example() -> None:
    one, other = (
        ChatDataset(TOKENIZER, [row])[0] for row in ({"messages": OPENAI}, {"conversations": SHAREGPT})
    )
    assert one == other == ChatDataset(TOKENIZER, [{"turns": OPENAI}], column="turns")[0]
    assert targets(one) == "So.<|im_end|>No.<|im_end|>"
    assert SlimOrcaDataset(TOKENIZER, [{"conversations": SHAREGPT}])[0] == one


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [("answers", "So.<|im_end|>No.<|im_end|>"), ("last", "No.<|im_end|>"), ("everything", None)],
)
def test_train_on_selects_the_targets(train_on: Any, expected: str | None) -> None:
    example = ChatDataset(TOKENIZER, [{"messages": OPENAI}], train_on=train_on)[0]
    assert isinstance(example, Example)
    assert targets(example) == (expected or TOKENIZER.decode(example.tokens))


def test_turns_with_weight_zero_are_not_targets() -> None:
    def weighted(*weights: int) -> list[dict[str, Any]]:
        remaining_weights = iter(weights)
        return [t | ({"weight": next(remaining_weights)} if t["role"] == "assistant" else {}) for t in OPENAI]

    assert targets(ChatDataset(TOKENIZER, [{"messages": weighted(0, 1)}])[0]) == "No.<|im_end|>"
    first = [{"messages": weighted(1, 0)}]
    assert targets(ChatDataset(TOKENIZER, first)[0]) == "So.<|im_end|>"
    assert targets(ChatDataset(TOKENIZER, first, train_on="last")[0]) == "So.<|im_end|>"
    rows = [{"messages": weighted(0, 0)}, {"messages": OPENAI}]
    skipped = ChatDataset(TOKENIZER, rows)[0]
    assert skipped == SkippedRow("have no assistant turn to train on", "source: row 1")


def test_a_system_turn_is_prepended_to_conversations_without_one() -> None:
    rows = [{"messages": OPENAI}, {"messages": [{"role": "system", "content": "Mine."}, *OPENAI]}]
    dataset = ChatDataset(TOKENIZER, rows, system="Be kind.")
    texts = [TOKENIZER.decode(e.tokens) for e in map(dataset.__getitem__, range(2)) if isinstance(e, Example)]
    assert texts[0].startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert texts[1].startswith("<|im_start|>system\nMine.<|im_end|>\n<|im_start|>user")


def test_tools_and_tool_calls_are_passed_to_the_template() -> None:
    tokenizer = ByteTokenizer(
        "{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments.x }}{% endfor %}]<|im_end|>"
        "{% endfor %}"
    )
    call = {"id": "1", "function": {"name": "f", "arguments": '{"x": 5}'}}
    turns = [
        OPENAI[0],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "5"}]},
        OPENAI[3],
    ]
    for tools in ([{"name": "f"}], json.dumps([{"name": "f"}])):
        example = ChatDataset(tokenizer, [{"messages": turns, "tools": tools}])[0]
        assert isinstance(example, Example)
        text = tokenizer.decode(example.tokens)
        turns_text = (
            "[user:Why?]<|im_end|>[assistant:f 5]<|im_end|>[tool:25]<|im_end|>[assistant:No.]<|im_end|>"
        )
        assert text == f'[{{"name": "f"}}]{turns_text}'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "a"},
            "no column 'messages' or 'conversations' with a list of turns, and no 'prompt' and 'completion'; the",
        ),
        ({"messages": "a"}, "'messages': expected a list of turns, got str 'a'"),
        ({"messages": []}, "'messages': the conversation is empty"),
        ({"messages": ["a"]}, "'messages.0': expected a turn with a role and its content, got str 'a'"),
        (
            {"messages": [{"role": "user"}]},
            "'messages.0': expected a turn with 'role' and 'content', or 'from' and 'value', got the",
        ),
        (
            {"messages": [{"role": "bot", "content": ""}]},
            "'messages.0': unknown role 'bot'; expected one of system,",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "'messages.0': expected the content to be text, got int 5",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "only text parts are supported",
        ),
        ({"messages": OPENAI, "tools": "f"}, "'tools': expected a list of tools, got text that is not JSON"),
        ({"messages": OPENAI, "tools": {"a": 1}}, "'tools': expected a list of tools, each a JSON schema"),
    ],
)
def test_an_invalid_conversation_raises_an_error_with_the_row(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match="source: row 1: ") as raised:
        ChatDataset(TOKENIZER, [row])
    assert message in str(raised.value)
    skipped = ChatDataset(TOKENIZER, [row, {"messages": OPENAI}], on_error="skip")[0]
    assert isinstance(skipped, SkippedRow)
    assert (skipped.reason, message in skipped.location) == ("cannot be used", True)
    with pytest.raises(ValueError, match="no row can be trained on: 1 of 1 cannot be used"):
        ChatDataset(TOKENIZER, [row], on_error="skip")


def test_the_error_of_a_template_contains_the_row() -> None:
    strict = ByteTokenizer(
        "{% for m in messages %}{% if loop.index0 == 4 %}{{ raise_exception('too long') }}{% endif %}"
        "{{ m.content }}<|im_end|>{% endfor %}"
    )
    rows = [{"messages": OPENAI}, {"messages": [*OPENAI, *OPENAI[:2]]}]
    with pytest.raises(RowError, match=r"source: row 2: the chat template failed .* too long"):
        ChatDataset(strict, rows)[1]
    assert isinstance(ChatDataset(strict, rows, on_error="skip")[1], SkippedRow)


def test_custom_columns_and_prompt_templates_are_supported() -> None:
    rows = [{"question": "Why {input}?", "context": "It is.", "answer": "So."}]
    columns = {"instruction": "question", "input": "context", "output": "answer"}
    dataset = InstructDataset(TOKENIZER, rows, columns=columns, template="Q: {instruction} ({input})\nA: ")
    example = dataset[0]
    assert isinstance(example, Example)
    assert TOKENIZER.decode(example.tokens) == "<|bos|>Q: Why {input}? (It is.)\nA: So.<|eos|>"
    assert targets(example) == "So.<|eos|>"
    alpaca = InstructDataset(TOKENIZER, rows, columns=columns, template="alpaca")[0]
    assert isinstance(alpaca, Example)
    assert TOKENIZER.decode(alpaca.tokens) == f"<|bos|>{alpaca_prompt('Why {input}?', 'It is.')}So.<|eos|>"
    for arguments, message in [
        (
            {"columns": {"prompt": "question"}},
            "columns: unknown field 'prompt'; expected instruction, input, output, system, history",
        ),
        (
            {"template": "Q: {question}"},
            "template: expected 'chat', 'alpaca', or text that contains {instruction}",
        ),
        ({"template": "alpaca", "system": "a"}, "system is not used by the template 'alpaca'"),
        (
            {"columns": {"instruction": "q"}},
            "no column 'q' for the instruction; the row's columns are",
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            InstructDataset(TOKENIZER, rows, **arguments)  # type: ignore[arg-type]  # the values have different types


def test_all_tokens_are_targets_and_long_text_is_split() -> None:
    rows = [{"text": "abcdefgh"}, {"text": " "}, {"text": "xy"}]
    dataset = TextCompletionDataset(TOKENIZER, rows, max_seq_len=4)
    assert dataset[1] == SkippedRow("are empty", "source: row 2")
    pieces = dataset[0]
    assert isinstance(pieces, list)
    assert [TOKENIZER.decode(piece.tokens) for piece in pieces] == ["<|bos|>abc", "cdef", "fgh<|eos|>"]
    assert sum(piece.n_targets for piece in pieces) == 9, "every token except the first is predicted once"
    assert [len(p.tokens) for p in TextCompletionDataset(TOKENIZER, rows)[0]] == [10]  # type: ignore[union-attr]
    (truncated,) = TextCompletionDataset(TOKENIZER, rows, max_seq_len=4, truncate="left")[0]  # type: ignore[misc]
    assert TOKENIZER.decode(truncated.tokens) == "fgh<|eos|>"
    dropped = TextCompletionDataset(TOKENIZER, rows, max_seq_len=4, truncate="drop")[0]
    assert dropped == SkippedRow("are longer than 4 tokens", "source: row 1")
    (without_eos,) = TextCompletionDataset(TOKENIZER, [{"b": "xy"}], column="b", add_eos=False)[0]  # type: ignore[misc]
    assert TOKENIZER.decode(without_eos.tokens) == "<|bos|>xy"


QUESTION, GOOD, BAD = OPENAI[0], OPENAI[1], {"role": "assistant", "content": "Eh."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "chosen": "So.", "rejected": "Eh."},
        {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
        {"conversations": [SHAREGPT[0]], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "Eh."}},
    ],
)
def test_every_preference_format_produces_the_same_pair(row: dict[str, Any]) -> None:
    pair = PreferenceDataset(TOKENIZER, [row])[0]
    assert isinstance(pair, Pair)
    for example, answer in ((pair.chosen, "So."), (pair.rejected, "Eh.")):
        text = f"<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
        assert TOKENIZER.decode(example.tokens) == text
        assert targets(example) == f"{answer}<|im_end|>"


def test_invalid_preferences_raise() -> None:
    with pytest.raises(
        RowError, match="no column 'prompt', and the chosen and rejected conversations do not begin"
    ):
        PreferenceDataset(TOKENIZER, [{"chosen": [GOOD], "rejected": [BAD]}])
    with pytest.raises(RowError, match="'chosen': expected the last turn to be the assistant's"):
        PreferenceDataset(TOKENIZER, [{"prompt": "a", "chosen": [QUESTION], "rejected": "b"}])
    with pytest.raises(ValueError, match="have two identical answers"):
        PreferenceDataset(TOKENIZER, [{"prompt": "a", "chosen": "b", "rejected": "b"}])
