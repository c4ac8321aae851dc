"""Generation blocks need not contain any message text, and a stop token can be an ordinary token."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.expected_examples import Piece, answer_target, assistant, example, question_text, user
from torchtune.data import chat_example
from torchtune.datasets import ChatDataset

CONTENT = "{% generation %}{{ m.content }}{% endgeneration %}"
CALL = "{% generation %}<call>{{ c.function.name }}</call>{% endgeneration %}"
CALLS = "{% for c in m.tool_calls or [] %}" + CALL + "{% endfor %}"
END = "{% generation %}<|im_end|>{% endgeneration %}"


def template(*blocks: str) -> str:
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + "".join(blocks)
        + "{% else %}"
        "{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def test_a_block_with_only_a_stop_token_is_assigned_to_its_turn() -> None:
    tokenizer = ByteTokenizer(template(CONTENT, END))
    turns = [user(), assistant(), user("And?"), assistant("B")]
    expected = example(question_text(), answer_target(), f"\n{question_text('And?')}", answer_target("B"))
    assert ChatDataset(tokenizer, [{"messages": turns}])[0] == expected
    excluded = [user(), assistant(weight=0), user("And?"), assistant("B")]
    before = f"{question_text()}A<|im_end|>\n{question_text('And?')}"
    assert ChatDataset(tokenizer, [{"messages": excluded}])[0] == example(before, answer_target("B"))
    assert ChatDataset(tokenizer, [{"messages": turns}], train_on="last")[0] == example(
        before, answer_target("B")
    )
    first = [user(), assistant(), user("And?"), assistant("B", weight=0)]
    assert ChatDataset(tokenizer, [{"messages": first}])[0] == example(question_text(), answer_target())


def test_blocks_with_tool_calls_or_empty_content_are_assigned_to_their_turn() -> None:
    tokenizer = ByteTokenizer(template(CONTENT, CALLS, END))
    call = assistant("", tool_calls=[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}])
    result = "\n<|im_start|>tool\nR<|im_end|>\n<|im_start|>assistant\n"
    answers: list[Piece] = [answer_target("<call>f</call><call>g</call>"), result, answer_target()]
    greeting = [user("Hi"), assistant("Hello")]
    for call_turn in (call, {**call, "content": None}):
        turns = [user(), call_turn, {"role": "tool", "content": "R"}, assistant()]
        assert ChatDataset(tokenizer, [{"messages": turns}])[0] == example(question_text(), *answers)
        longer = ChatDataset(tokenizer, [{"messages": [*greeting, *turns]}])[0]
        assert longer == example(
            question_text("Hi"), answer_target("Hello"), f"\n{question_text()}", *answers
        )


class LineTokenizer(ByteTokenizer):
    """A tokenizer whose stop token is an ordinary line break; it counts the characters that it encodes."""

    special_tokens: dict[str, int] = {}  # noqa: RUF012 - mutable, like the base class attribute
    stop_ids = frozenset({10})
    encoded = 0

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        del plain
        LineTokenizer.encoded += len(text)
        return list(text.encode())


@pytest.mark.parametrize("n", [50, 200])
def test_an_ordinary_stop_token_keeps_the_encoding_cost_linear(n: int) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    turns: list[Any] = [turn for i in range(n) for turn in (user(f"q{i}"), assistant(f"a{i}"))]
    LineTokenizer.encoded = 0
    opening = "{% if add_generation_prompt %}assistant:{% endif %}"
    example = chat_example(LineTokenizer(template + opening), turns, train_on_input=False)
    target_text = bytes(label for label in example.labels if label >= 0).decode()
    assert target_text == "".join(f" a{i}\n" for i in range(n))
    assert LineTokenizer.encoded <= 4 * len(example.tokens)
