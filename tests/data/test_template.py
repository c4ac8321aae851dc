"""Rendered conversations and their ids are compared with transformers' apply_chat_template."""

from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.data.byte_tokenizer import CHATML, ByteTokenizer
from torchtune.data import ChatTemplate, Message, alpaca_prompt, chat_example, chat_prompt, chat_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Templates in the style of different model families; each uses a feature that no other template uses.
TEMPLATES = {
    "turns": CHATML,
    "first turn and defaults": (
        "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
        "{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "blocks on separate lines": (
        "{{ bos_token }}\n"
        "{%- for message in messages %}\n"
        "    {% if message.role == 'user' %}\n"
        "[{{ message.content | trim }}]\n"
        "    {% else %}\n"
        "{{ message.content }}{{ eos_token }}\n"
        "    {% endif %}\n"
        "{% endfor %}\n"
    ),
    "tools, json and breaks": (
        "{% if tools is not none %}tools{% endif %}{% if documents %}documents{% endif %}"
        "{% for message in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
        "{{ message | tojson }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt is defined and add_generation_prompt %}>{% endif %}"
    ),
}
CONVERSATION = [
    Message(role="system", content="Be kind."),
    Message(role="user", content=" Größe <b>&\n\n'x'? "),
    Message(role="assistant", content="{{ 7 * 7 }}"),
]


@cache
def reference() -> "PreTrainedTokenizerFast":
    """Build a small byte-level transformers tokenizer, with merges trained on a short text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["user\nassistant\nsystem\n\nBe kind. Why? So."] * 9, trainer)
    # transformers annotates this constructor and the result of the template only partially.
    fast: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = fast(tokenizer_object=core, bos_token="<|bos|>", eos_token="<|eos|>")
    return tokenizer


def transformers_rendering(
    messages: list[Message], template: str, *, tokenize: bool, add_generation_prompt: bool
) -> Any:
    """Render messages with transformers, and return the text or its ids."""
    turns = [dict(message) for message in messages]
    rendered: Any = reference().apply_chat_template(
        turns,  # type: ignore[arg-type]  # mypy infers the values of a TypedDict as object
        chat_template=template,
        tokenize=tokenize,
        add_generation_prompt=add_generation_prompt,
    )
    return rendered["input_ids"] if tokenize else rendered


class ReferenceTokenizer(ByteTokenizer):
    """Implements torchtune.data.Tokenizer with the tokenizer returned by `reference`."""

    eos_id = 1
    stop_ids = frozenset({1, 3})

    def encode(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        del add_bos, add_eos  # only used for plain text in a conversation
        return list(reference().encode(text, add_special_tokens=False, split_special_tokens=True))

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        assert not plain
        return list(reference().encode(text, add_special_tokens=False))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_rendering_matches_transformers(name: str, add_generation_prompt: bool) -> None:
    expected = transformers_rendering(
        CONVERSATION, TEMPLATES[name], tokenize=False, add_generation_prompt=add_generation_prompt
    )
    template = ChatTemplate(TEMPLATES[name], bos_token="<|bos|>", eos_token="<|eos|>")
    assert template.render(CONVERSATION, add_generation_prompt).text == expected


@pytest.mark.parametrize("name", ["turns", "first turn and defaults"])
def test_ids_match_transformers(name: str) -> None:
    ids = partial(transformers_rendering, template=TEMPLATES[name], tokenize=True)
    tokenizer = ReferenceTokenizer(TEMPLATES[name])
    for messages in (CONVERSATION, CONVERSATION[1:]):
        prompt = chat_prompt(tokenizer, messages[:-1])
        assert prompt == ids(messages[:-1], add_generation_prompt=True)
        example = chat_example(tokenizer, messages, train_on_input=False)
        all_ids = ids(messages, add_generation_prompt=False)
        assert example.tokens == all_ids[: len(example.tokens)]
        assert reference().decode(all_ids[len(example.tokens) :]) == "\n"


def test_assistant_tokens_match_transformers() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>"
        "{% endif %}{{ '\n' }}{% endfor %}"
    )
    messages = [*CONVERSATION, CONVERSATION[1], Message(role="assistant", content="Größe 🎉 So.")]
    turns = [dict(message) for message in messages]
    expected: Any = reference().apply_chat_template(
        turns,  # type: ignore[arg-type]  # mypy infers the values of a TypedDict as object
        chat_template=template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    chat = chat_tokens(ReferenceTokenizer(template), messages)
    assert chat.tokens == expected["input_ids"]
    mask = [any(start <= i < end for start, end in chat.answers) for i in range(len(chat.tokens))]
    assert mask == [bool(is_answer) for is_answer in expected["assistant_masks"]]
    assert sum(mask) > 10


def test_a_template_may_reject_messages() -> None:
    template = ChatTemplate("{{ raise_exception('turns must alternate') }}")
    with pytest.raises(ValueError, match=r"failed \(message roles: user\): turns must alternate"):
        template.render([Message(role="user", content="")], add_generation_prompt=True)


def test_invalid_jinja_is_rejected() -> None:
    with pytest.raises(ValueError, match="the chat template is not valid Jinja: line 2: unexpected '%'"):
        ChatTemplate("{{ bos_token }}\n{% if %")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for i in range(99) %}{{ f(n + 1) if n < 9 }}{% endfor %}{% endmacro %}{{ f(0) }}",
        "{% for i in range(9999) recursive %}{% if loop.depth < 9 %}{{ loop(range(9999)) }}{% endif %}{% endfor %}",
        "{% set check_time = 1 %}{% for i in range(99999) if range(99999) | list | length %}{% endfor %}",
    ],
)
def test_a_template_that_runs_too_long_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchtune.data._template_environment.TIME_LIMIT", 0.1)
    with pytest.raises(ValueError, match=r"failed \(message roles: none\): it ran for more than 0.1 seconds"):
        ChatTemplate(source).render([], add_generation_prompt=True)


def test_a_template_uses_the_configured_date_or_raises() -> None:
    source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    with pytest.raises(ValueError, match=r"uses today's date, .* tokenizer\.date=\d{4}-\d\d-\d\d"):
        ChatTemplate(source).render([], add_generation_prompt=True)
    assert (
        ChatTemplate(source, date="2024-07-26").render([], add_generation_prompt=True).text == "26 Jul 2024"
    )
    with pytest.raises(ValueError, match="date: the chat template does not use today's date"):
        ChatTemplate(CHATML, date="2024-07-26")


def test_an_argument_that_the_template_does_not_use_is_rejected() -> None:
    source = "{% if enable_thinking %}<think>{% endif %}{{ custom | default('') }}"
    template = ChatTemplate(source, arguments={"enable_thinking": True})
    assert template.render([], add_generation_prompt=True).text == "<think>"
    with pytest.raises(
        ValueError, match=r"template_arguments\.think: .* the template uses custom, enable_thinking"
    ):
        ChatTemplate(source, arguments={"think": True})
    with pytest.raises(ValueError, match=r"template_arguments\.tools: this variable is reserved"):
        ChatTemplate(source, arguments={"tools": []})


def test_the_tool_template_renders_conversations_with_tools() -> None:
    template = ChatTemplate("plain", tool_source="{{ tools | tojson }}")
    assert template.render([], add_generation_prompt=True).text == "plain"
    assert template.render([], add_generation_prompt=True, tools=[{"name": "f"}]).text == '[{"name": "f"}]'


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 10 ** 10 ** (10 ** 10) }}",
        "{{ 'a' * 10 ** 11 }}",
        "{{ 10 ** 11 * [1] }}",
    ],
)
def test_a_template_runs_in_a_sandbox(source: str) -> None:
    with pytest.raises(ValueError, match="the chat template failed"):
        ChatTemplate(source).render([], add_generation_prompt=True)


def test_the_alpaca_prompt_matches_the_published_prompt() -> None:
    # Copied from "Data Release" in the README of https://github.com/tatsu-lab/stanford_alpaca.
    with_input = """Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.

### Instruction:
{instruction}

### Input:
{input}

### Response:
"""  # noqa: E501
    without_input = """Below is an instruction that describes a task. Write a response that appropriately completes the request.

### Instruction:
{instruction}

### Response:
"""  # noqa: E501
    assert alpaca_prompt("Add {1}.", "2, 3") == with_input.format(instruction="Add {1}.", input="2, 3")
    assert alpaca_prompt("Sing.", "") == without_input.format(instruction="Sing.")
