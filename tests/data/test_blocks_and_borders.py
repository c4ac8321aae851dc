"""Generation blocks without words of a message, and stop tokens that divide no text."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.by_hand import Piece, answered, asked, assistant, example, user
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


def test_a_block_that_holds_the_end_alone_belongs_to_its_turn() -> None:
    tokenizer = ByteTokenizer(template(CONTENT, END))
    turns = [user(), assistant(), user("And?"), assistant("B")]
    expected = example(asked(), answered(), f"\n{asked('And?')}", answered("B"))
    assert ChatDataset(tokenizer, [{"messages": turns}])[0] == expected
    unlearnt = [user(), assistant(weight=0), user("And?"), assistant("B")]
    before = f"{asked()}A<|im_end|>\n{asked('And?')}"
    assert ChatDataset(tokenizer, [{"messages": unlearnt}])[0] == example(before, answered("B"))
    assert ChatDataset(tokenizer, [{"messages": turns}], train_on="last")[0] == example(before, answered("B"))
    first = [user(), assistant(), user("And?"), assistant("B", weight=0)]
    assert ChatDataset(tokenizer, [{"messages": first}])[0] == example(asked(), answered())


def test_blocks_of_calls_and_empty_content_belong_to_their_turn() -> None:
    tokenizer = ByteTokenizer(template(CONTENT, CALLS, END))
    call = assistant("", tool_calls=[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}])
    result = "\n<|im_start|>tool\nR<|im_end|>\n<|im_start|>assistant\n"
    answers: list[Piece] = [answered("<call>f</call><call>g</call>"), result, answered()]
    greeting = [user("Hi"), assistant("Hello")]
    for calling in (call, {**call, "content": None}):
        turns = [user(), calling, {"role": "tool", "content": "R"}, assistant()]
        assert ChatDataset(tokenizer, [{"messages": turns}])[0] == example(asked(), *answers)
        longer = ChatDataset(tokenizer, [{"messages": [*greeting, *turns]}])[0]
        assert longer == example(asked("Hi"), answered("Hello"), f"\n{asked()}", *answers)


class Line(ByteTokenizer):
    """Ends answers with a line break, which is an ordinary token; counts the characters that it encodes."""

    special_tokens: dict[str, int] = {}  # noqa: RUF012 - as in its base class
    stop_ids = frozenset({10})
    encoded = 0

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        del plain
        Line.encoded += len(text)
        return list(text.encode())


@pytest.mark.parametrize("n", [50, 200])
def test_a_stop_token_that_is_ordinary_costs_no_more(n: int) -> None:
    written = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    turns: list[Any] = [turn for i in range(n) for turn in (user(f"q{i}"), assistant(f"a{i}"))]
    Line.encoded = 0
    opening = "{% if add_generation_prompt %}assistant:{% endif %}"
    found = chat_example(Line(written + opening), turns, train_on_input=False)
    learnt = bytes(label for label in found.labels if label >= 0).decode()
    assert learnt == "".join(f" a{i}\n" for i in range(n))
    assert Line.encoded <= 4 * len(found.tokens)
