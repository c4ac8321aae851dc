"""Examples put together by hand from bytes and special ids, and chat templates to compare them with."""

import re
from typing import Any

from attrs import frozen

from tests.data.byte_tokenizer import SPECIAL_TOKENS
from torchtune.data import IGNORE_INDEX, Example

_MARKS = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))

AGENT = (
    "{% if tools %}<|im_start|>system\nTOOLS {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<r>{{ m.reasoning_content }}</r>{% endif %}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Knows tools, tool calls and reasoning; leaves out the ids of calls."""

BLOCKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{% if m.thinking %}<t>{{ m.thinking }}</t>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c | tojson }}</call>{% endfor %}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Marks what the assistant writes; knows reasoning under another name, and whole calls."""

NO_TOOLS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>model\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
"""Writes the turns of the user and the assistant alone, as Gemma's does."""


@frozen
class Learnt:
    """A text whose tokens are targets."""

    text: str


@frozen
class Plain:
    """A text in which special tokens are spelt in letters."""

    text: str
    is_learnt: bool = False


Piece = str | Learnt | Plain
"""A part of an example. A text is no target, and its special tokens are meant."""


def ids(text: str) -> list[int]:
    """Encode a text, its special tokens as their ids."""
    at, found = 0, list[int]()
    for mark in _MARKS.finditer(text):
        found += [*text[at : mark.start()].encode(), SPECIAL_TOKENS[mark[0]]]
        at = mark.end()
    return found + list(text[at:].encode())


def example(*pieces: Piece) -> Example:
    """Put an example together; only learnt pieces are targets."""
    tokens, labels = list[int](), list[int]()
    for piece in pieces:
        text = piece if isinstance(piece, str) else piece.text
        own = list(text.encode()) if isinstance(piece, Plain) else ids(text)
        is_learnt = isinstance(piece, Learnt) or (isinstance(piece, Plain) and piece.is_learnt)
        tokens += own
        labels += own if is_learnt else [IGNORE_INDEX] * len(own)
    return Example(tokens, labels)


def asked(text: str = "Q", opening: str = "assistant\n") -> str:
    """Write a question in ChatML, and the words that open its answer."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>{opening}"


def answered(text: str = "A") -> Learnt:
    """Write an answer that is learnt, with the token that ends it."""
    return Learnt(f"{text}<|im_end|>")


def user(content: str = "Q", **more: Any) -> dict[str, Any]:
    """Return a turn of the user."""
    return {"role": "user", "content": content, **more}


def assistant(content: Any = "A", **more: Any) -> dict[str, Any]:
    """Return a turn of the assistant."""
    return {"role": "assistant", "content": content, **more}


def notes_of(found: Any) -> list[str]:
    """Return what is reported of an example."""
    assert isinstance(found, Example)
    return [f"{note.text}: {note.example}" for note in found.notes]
