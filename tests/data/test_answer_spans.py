"""Answers are located in the tokens with every template: multiple blocks, all JSON options, long conversations."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tests.data.byte_tokenizer import CHATML, ByteTokenizer
from tests.datasets.expected_examples import (
    AGENT,
    BLOCKS,
    Piece,
    Plain,
    Target,
    answer_target,
    assistant,
    example,
    notes_of,
    question_text,
    user,
)
from torchtune.data import ChatTemplate, Pair, chat_example
from torchtune.datasets import ChatDataset, InstructDataset, PreferenceDataset, TextCompletionDataset

# Multiple blocks in one answer

SPLIT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content %}{% generation %}<r>{{ m.reasoning_content }}</r>{% endgeneration %}{{ '\n' }}"
    "{% endif %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHT = assistant("A", reasoning_content="Hm.")
RENDERED: list[Piece] = [Target("<r>Hm.</r>"), "\n", answer_target()]


def test_every_answer_may_be_split_into_multiple_blocks() -> None:
    tokenizer = ByteTokenizer(SPLIT)
    turns = [user(), THOUGHT, user("And?"), assistant("B"), user(), THOUGHT]
    actual = ChatDataset(tokenizer, [{"messages": turns}])[0]
    assert actual == example(
        question_text(),
        *RENDERED,
        f"\n{question_text('And?')}",
        answer_target("B"),
        f"\n{question_text()}",
        *RENDERED,
    )
    last = ChatDataset(tokenizer, [{"messages": turns}], train_on="last")[0]
    before = (
        f"{question_text()}<r>Hm.</r>\nA<|im_end|>\n{question_text('And?')}B<|im_end|>\n{question_text()}"
    )
    assert last == example(before, *RENDERED)


def test_flags_and_preferences_apply_to_all_blocks_of_an_answer() -> None:
    tokenizer = ByteTokenizer(SPLIT)
    turns = [user(), {**THOUGHT, "weight": 0}, user("And?"), THOUGHT]
    before = f"{question_text()}<r>Hm.</r>\nA<|im_end|>\n{question_text('And?')}"
    assert ChatDataset(tokenizer, [{"messages": turns}])[0] == example(before, *RENDERED)
    row = {"prompt": [user(), THOUGHT, user("And?")], "chosen": [THOUGHT], "rejected": "B"}
    pair = PreferenceDataset(tokenizer, [row])[0]
    assert pair == Pair(example(before, *RENDERED), example(before, answer_target("B")))


# Special tokens in content


class TokenizerWithContentToken(ByteTokenizer):
    """A tokenizer that allows one special token in content."""

    content_tokens = frozenset({"<|pad|>"})


SPECIAL_TOKEN_TEXT = "a<|pad|>b<|im_end|>"


def test_only_allowed_special_tokens_are_recognized_in_content() -> None:
    question: list[Piece] = [
        "<|im_start|>user\n",
        Plain(SPECIAL_TOKEN_TEXT),
        "<|im_end|>\n<|im_start|>assistant\n",
    ]
    answer: list[Piece] = [Plain(SPECIAL_TOKEN_TEXT, is_target=True), Target("<|im_end|>")]
    allowed: list[Piece] = [
        "<|im_start|>user\na<|pad|>b",
        Plain("<|im_end|>"),
        "<|im_end|>\n<|im_start|>assistant\n",
    ]
    allowed_answer: list[Piece] = [
        Target("a<|pad|>b"),
        Plain("<|im_end|>", is_target=True),
        Target("<|im_end|>"),
    ]
    rows: list[Any] = [
        (ChatDataset, {"messages": [user(SPECIAL_TOKEN_TEXT), assistant(SPECIAL_TOKEN_TEXT)]}),
        (ChatDataset, {"prompt": SPECIAL_TOKEN_TEXT, "completion": SPECIAL_TOKEN_TEXT}),
        (InstructDataset, {"instruction": SPECIAL_TOKEN_TEXT, "output": SPECIAL_TOKEN_TEXT}),
    ]
    for dataset, row in rows:
        plain = dataset(ByteTokenizer(), [row])[0]
        assert plain == example(*question, *answer)
        assert {note.split("'")[1] for note in notes_of(plain)} == {"<|im_end|>", "<|pad|>"}
        with_allowed = dataset(TokenizerWithContentToken(), [row])[0]
        assert with_allowed == example(*allowed, *allowed_answer)
        assert [note.split("'")[1] for note in notes_of(with_allowed)] == ["<|im_end|>"]
    pair = PreferenceDataset(
        TokenizerWithContentToken(),
        [{"prompt": SPECIAL_TOKEN_TEXT, "chosen": SPECIAL_TOKEN_TEXT, "rejected": "B"}],
    )[0]
    assert isinstance(pair, Pair)
    assert pair.chosen == example(*allowed, *allowed_answer)


def test_special_tokens_in_tool_calls_and_reasoning_stay_text() -> None:
    call = assistant(
        None, reasoning="<|eos|>", tool_calls=[{"name": "f", "arguments": {"<|pad|>": "<|bos|>"}}]
    )
    actual = ChatDataset(ByteTokenizer(AGENT), [{"messages": [user(), call]}])[0]
    rendered = '<r><|eos|></r><call>f {"<|pad|>": "<|bos|>"}</call>'
    assert actual == example(question_text(), Plain(rendered, is_target=True), Target("<|im_end|>"))
    assert sorted(note.split("'")[1] for note in notes_of(actual)) == ["<|bos|>", "<|eos|>", "<|pad|>"]


# JSON options

FORMS = [
    "tojson(ensure_ascii=False, separators=(',', ':'), sort_keys=True)",
    "tojson(ensure_ascii=True)",
    "tojson(indent=2, sort_keys=True)",
    "tojson(False, 4)",
    "tojson(separators=(' , ', ' : '), indent=0)",
    "tojson(indent=none, separators=none)",
    "tojson(sort_keys=true)",
]
ARGUMENTS = {
    "z": 'é"\n</x>\u2028',
    "a": {"c": [1, {"q": -2.5e-7}, []], "b": None},
    "e": {},
    "t": True,
    "ä": 10**20,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("expression", ["c.function.arguments", "c", "m.tool_calls"])
def test_json_matches_transformers(form: str, expression: str) -> None:
    template = (
        "{% if tools %}{{ tools | FORM }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls %}{{ c.function.name }}{{ VALUE | FORM }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    template = template.replace("VALUE", expression).replace("FORM", form)
    call = {"type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
    tools: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": ARGUMENTS}}]
    turns = [user(), assistant("", tool_calls=[call]), user("And?"), assistant("B")]
    expected: Any = render_jinja_template([turns], tools=tools, chat_template=template)
    for arguments in (ARGUMENTS, json.dumps(ARGUMENTS)):
        call["function"] = {"name": "f", "arguments": arguments}
        actual = ChatDataset(ByteTokenizer(template), [{"messages": turns, "tools": tools}])[0]
        tokens = getattr(actual, "tokens", None)
        assert tokens == example(expected[0][0]).tokens[:-1], (
            "equal except for the line break after the last answer"
        )


# Long conversations

THINKING = CHATML.replace(
    "message['content']",
    "('<t></t>' if message.role == 'assistant' and loop.last else '') + message['content']",
)
INSTRUCTIONS = (
    "<|bos|>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}<|eos|>{% endif %}{% endfor %}"
)


class CountingTokenizer(ByteTokenizer):
    """A tokenizer that counts the characters that it encodes."""

    encoded = 0

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        CountingTokenizer.encoded += len(text)
        return super().encode_template(text, plain)


def turns_of(n: int, *, special: bool = False, tools: bool = False) -> list[Any]:
    marker = "<|im_end|>" if special else ""
    call = assistant(
        "", tool_calls=[{"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}]
    )
    calls = [call, {"role": "tool", "content": "2"}] if tools else []
    return [turn for i in range(n) for turn in (user(f"q{marker}{i}"), *calls, assistant(f"a{marker}{i}"))]


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("template", "options"),
    [
        (CHATML, {}),
        (CHATML, {"special": True}),
        (AGENT, {"tools": True}),
        (BLOCKS, {}),
        (BLOCKS, {"special": True, "tools": True}),
        (THINKING, {}),
        (INSTRUCTIONS, {}),
    ],
)
def test_rendering_and_encoding_cost_is_linear_in_conversation_length(
    template: str, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []
    render = ChatTemplate.render

    def counting_render(self: ChatTemplate, messages: Any, *args: Any, **kwargs: Any) -> Any:
        rendered.append(len(messages))
        return render(self, messages, *args, **kwargs)

    monkeypatch.setattr(ChatTemplate, "render", counting_render)
    for n in (50, 100, 200):
        turns, CountingTokenizer.encoded = turns_of(n, **options), 0
        rendered.clear()
        actual = chat_example(CountingTokenizer(template), turns, train_on_input=False)
        assert sum(label >= 256 for label in actual.labels) == n * (1 + ("tools" in options))
        assert len(rendered) <= 3
        assert sum(rendered) <= 3 * len(turns)
        assert CountingTokenizer.encoded <= 3 * len(ByteTokenizer().decode(actual.tokens))


def test_text_and_preference_encoding_cost_is_linear() -> None:
    CountingTokenizer.encoded = 0
    turns = turns_of(200)
    pair = PreferenceDataset(CountingTokenizer(), [{"prompt": turns[:-1], "chosen": "A", "rejected": "B"}])[0]
    assert isinstance(pair, Pair)
    length = len(ByteTokenizer().decode(pair.chosen.tokens))
    assert CountingTokenizer.encoded <= 3 * 2 * 2 * length + 1000, (
        "both answers are encoded twice, because the first row is also checked"
    )
    text = "word " * 20_000
    actual = TextCompletionDataset(ByteTokenizer(), [{"text": text}], max_seq_len=100)[0]
    assert isinstance(actual, list)
    assert sum(part.n_targets for part in actual) == len(text) + 1
