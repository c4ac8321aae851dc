"""Builds expected examples from bytes and special token ids, and defines chat templates for the tests."""

import re
from typing import Any

from attrs import frozen

from tests.data.byte_tokenizer import SPECIAL_TOKENS
from torchtune.data import IGNORE_INDEX, Example

_SPECIAL_TOKEN = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))

AGENT = (
    "{% if tools %}<|im_start|>system\nTOOLS {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<r>{{ m.reasoning_content }}</r>{% endif %}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Renders tools, tool calls and reasoning, but no call ids."""

BLOCKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{% if m.thinking %}<t>{{ m.thinking }}</t>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c | tojson }}</call>{% endfor %}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Has generation blocks, reads reasoning from another field, and renders tool calls with their ids."""

NO_TOOLS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>model\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
"""Renders only user and assistant turns, like Gemma's template."""


@frozen
class Target:
    """Text whose tokens are targets."""

    text: str


@frozen
class Plain:
    """Text whose special tokens are encoded as ordinary characters."""

    text: str
    is_target: bool = False


Piece = str | Target | Plain
"""A part of an example. A string is not a target, and its special tokens are encoded as special tokens."""


def ids(text: str) -> list[int]:
    """Encode text, with special tokens encoded as their ids."""
    start, tokens = 0, list[int]()
    for match in _SPECIAL_TOKEN.finditer(text):
        tokens += [*text[start : match.start()].encode(), SPECIAL_TOKENS[match[0]]]
        start = match.end()
    return tokens + list(text[start:].encode())


def example(*pieces: Piece) -> Example:
    """Build an example from pieces, which define its tokens and targets."""
    tokens, labels = list[int](), list[int]()
    for piece in pieces:
        text = piece if isinstance(piece, str) else piece.text
        piece_tokens = list(text.encode()) if isinstance(piece, Plain) else ids(text)
        is_target = isinstance(piece, Target) or (isinstance(piece, Plain) and piece.is_target)
        tokens += piece_tokens
        labels += piece_tokens if is_target else [IGNORE_INDEX] * len(piece_tokens)
    return Example(tokens, labels)


def question_text(text: str = "Q", opening: str = "assistant\n") -> str:
    """Return a question in ChatML, followed by the start of the assistant turn."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>{opening}"


def answer_target(text: str = "A") -> Target:
    """Return an answer and its end token as a target."""
    return Target(f"{text}<|im_end|>")


def user(content: str = "Q", **fields: Any) -> dict[str, Any]:
    """Return a user turn."""
    return {"role": "user", "content": content, **fields}


def assistant(content: Any = "A", **fields: Any) -> dict[str, Any]:
    """Return an assistant turn."""
    return {"role": "assistant", "content": content, **fields}


def notes_of(encoded: Any) -> list[str]:
    """Return the text of each of an example's notes."""
    assert isinstance(encoded, Example)
    return [f"{note.text}: {note.example}" for note in encoded.notes]
