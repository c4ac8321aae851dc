"""Which tokens are the assistant's, whatever a template does: blocks, JSON of every form, long conversations."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tests.data.byte_tokenizer import CHATML, ByteTokenizer
from tests.datasets.by_hand import (
    AGENT,
    BLOCKS,
    Learnt,
    Piece,
    Plain,
    answered,
    asked,
    assistant,
    example,
    notes_of,
    user,
)
from torchtune.data import ChatTemplate, Pair, chat_example
from torchtune.datasets import ChatDataset, InstructDataset, PreferenceDataset, TextCompletionDataset

# Several blocks in one answer

SPLIT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content %}{% generation %}<r>{{ m.reasoning_content }}</r>{% endgeneration %}{{ '\n' }}"
    "{% endif %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHT = assistant("A", reasoning_content="Hm.")
WRITTEN: list[Piece] = [Learnt("<r>Hm.</r>"), "\n", answered()]


def test_an_answer_may_be_in_several_blocks_in_every_turn() -> None:
    tokenizer = ByteTokenizer(SPLIT)
    turns = [user(), THOUGHT, user("And?"), assistant("B"), user(), THOUGHT]
    found = ChatDataset(tokenizer, [{"messages": turns}])[0]
    assert found == example(asked(), *WRITTEN, f"\n{asked('And?')}", answered("B"), f"\n{asked()}", *WRITTEN)
    last = ChatDataset(tokenizer, [{"messages": turns}], train_on="last")[0]
    before = f"{asked()}<r>Hm.</r>\nA<|im_end|>\n{asked('And?')}B<|im_end|>\n{asked()}"
    assert last == example(before, *WRITTEN)


def test_flags_and_preferences_choose_whole_answers_of_several_blocks() -> None:
    tokenizer = ByteTokenizer(SPLIT)
    turns = [user(), {**THOUGHT, "weight": 0}, user("And?"), THOUGHT]
    before = f"{asked()}<r>Hm.</r>\nA<|im_end|>\n{asked('And?')}"
    assert ChatDataset(tokenizer, [{"messages": turns}])[0] == example(before, *WRITTEN)
    row = {"prompt": [user(), THOUGHT, user("And?")], "chosen": [THOUGHT], "rejected": "B"}
    pair = PreferenceDataset(tokenizer, [row])[0]
    assert pair == Pair(example(before, *WRITTEN), example(before, answered("B")))


# Special tokens in content


class Allowing(ByteTokenizer):
    """Allows one special token in content."""

    content_tokens = frozenset({"<|pad|>"})


SPELT = "a<|pad|>b<|im_end|>"


def test_special_tokens_in_content_are_those_that_are_allowed() -> None:
    asking: list[Piece] = ["<|im_start|>user\n", Plain(SPELT), "<|im_end|>\n<|im_start|>assistant\n"]
    answer: list[Piece] = [Plain(SPELT, is_learnt=True), Learnt("<|im_end|>")]
    allowed: list[Piece] = [
        "<|im_start|>user\na<|pad|>b",
        Plain("<|im_end|>"),
        "<|im_end|>\n<|im_start|>assistant\n",
    ]
    allowed_answer: list[Piece] = [
        Learnt("a<|pad|>b"),
        Plain("<|im_end|>", is_learnt=True),
        Learnt("<|im_end|>"),
    ]
    rows: list[Any] = [
        (ChatDataset, {"messages": [user(SPELT), assistant(SPELT)]}),
        (ChatDataset, {"prompt": SPELT, "completion": SPELT}),
        (InstructDataset, {"instruction": SPELT, "output": SPELT}),
    ]
    for dataset, row in rows:
        plain = dataset(ByteTokenizer(), [row])[0]
        assert plain == example(*asking, *answer)
        assert {note.split("'")[1] for note in notes_of(plain)} == {"<|im_end|>", "<|pad|>"}
        allowing = dataset(Allowing(), [row])[0]
        assert allowing == example(*allowed, *allowed_answer)
        assert [note.split("'")[1] for note in notes_of(allowing)] == ["<|im_end|>"]
    pair = PreferenceDataset(Allowing(), [{"prompt": SPELT, "chosen": SPELT, "rejected": "B"}])[0]
    assert isinstance(pair, Pair)
    assert pair.chosen == example(*allowed, *allowed_answer)


def test_special_tokens_in_calls_tools_and_reasoning_stay_text() -> None:
    call = assistant(
        None, reasoning="<|eos|>", tool_calls=[{"name": "f", "arguments": {"<|pad|>": "<|bos|>"}}]
    )
    found = ChatDataset(ByteTokenizer(AGENT), [{"messages": [user(), call]}])[0]
    written = '<r><|eos|></r><call>f {"<|pad|>": "<|bos|>"}</call>'
    assert found == example(asked(), Plain(written, is_learnt=True), Learnt("<|im_end|>"))
    assert sorted(note.split("'")[1] for note in notes_of(found)) == ["<|bos|>", "<|eos|>", "<|pad|>"]


# JSON of every form

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
@pytest.mark.parametrize("what", ["c.function.arguments", "c", "m.tool_calls"])
def test_json_is_written_as_transformers_writes_it(form: str, what: str) -> None:
    template = (
        "{% if tools %}{{ tools | FORM }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls %}{{ c.function.name }}{{ WHAT | FORM }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    template = template.replace("WHAT", what).replace("FORM", form)
    call = {"type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
    tools: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": ARGUMENTS}}]
    turns = [user(), assistant("", tool_calls=[call]), user("And?"), assistant("B")]
    theirs: Any = render_jinja_template([turns], tools=tools, chat_template=template)
    for arguments in (ARGUMENTS, json.dumps(ARGUMENTS)):
        call["function"] = {"name": "f", "arguments": arguments}
        found = ChatDataset(ByteTokenizer(template), [{"messages": turns, "tools": tools}])[0]
        tokens = getattr(found, "tokens", None)
        assert tokens == example(theirs[0][0]).tokens[:-1], "but the line break after the last answer"


# Long conversations

THINKING = CHATML.replace(
    "message['content']",
    "('<t></t>' if message.role == 'assistant' and loop.last else '') + message['content']",
)
INSTRUCTIONS = (
    "<|bos|>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}<|eos|>{% endif %}{% endfor %}"
)


class Counting(ByteTokenizer):
    """Counts the characters that it encodes."""

    encoded = 0

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        Counting.encoded += len(text)
        return super().encode_template(text, plain)


def turns_of(n: int, *, special: bool = False, tools: bool = False) -> list[Any]:
    mark = "<|im_end|>" if special else ""
    call = assistant(
        "", tool_calls=[{"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}]
    )
    calling = [call, {"role": "tool", "content": "2"}] if tools else []
    return [turn for i in range(n) for turn in (user(f"q{mark}{i}"), *calling, assistant(f"a{mark}{i}"))]


@pytest.mark.parametrize(
    ("template", "how"),
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
def test_what_a_conversation_costs_grows_with_its_length(
    template: str, how: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []
    render = ChatTemplate.render

    def counting(self: ChatTemplate, messages: Any, *args: Any, **more: Any) -> Any:
        rendered.append(len(messages))
        return render(self, messages, *args, **more)

    monkeypatch.setattr(ChatTemplate, "render", counting)
    for n in (50, 100, 200):
        turns, Counting.encoded = turns_of(n, **how), 0
        rendered.clear()
        found = chat_example(Counting(template), turns, train_on_input=False)
        assert sum(label >= 256 for label in found.labels) == n * (1 + ("tools" in how))
        assert len(rendered) <= 3
        assert sum(rendered) <= 3 * len(turns)
        assert Counting.encoded <= 3 * len(ByteTokenizer().decode(found.tokens))


def test_texts_and_preferences_are_encoded_once_too() -> None:
    Counting.encoded = 0
    turns = turns_of(200)
    pair = PreferenceDataset(Counting(), [{"prompt": turns[:-1], "chosen": "A", "rejected": "B"}])[0]
    assert isinstance(pair, Pair)
    length = len(ByteTokenizer().decode(pair.chosen.tokens))
    assert Counting.encoded <= 3 * 2 * 2 * length + 1000, "two answers, twice: the first row is also tried"
    text = "word " * 20_000
    found = TextCompletionDataset(ByteTokenizer(), [{"text": text}], max_seq_len=100)[0]
    assert isinstance(found, list)
    assert sum(part.n_targets for part in found) == len(text) + 1
