"""Chat templates, which render conversations as text."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from attrs import field, frozen

from torchtune.data._traced import Origin, Traced

if TYPE_CHECKING:
    from torchtune.data._template_environment import Compiled

_RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token")
"""Variables that every template receives, and that `arguments` cannot override."""

Span = tuple[int, int]
"""The start and end of a part of a string or token sequence."""


class Message(TypedDict):
    """One turn of a conversation, possibly with additional fields that a template reads."""

    role: str
    """The speaker: "system", "user", "assistant", or another role that the template supports."""
    content: str
    """The text; empty if the turn only calls tools."""
    tool_calls: NotRequired[list[dict[str, Any]]]
    """Tool calls of an assistant, in the format of OpenAI's chat API."""
    tool_call_id: NotRequired[str]
    """The call that a tool's turn answers."""
    name: NotRequired[str]
    """The tool's name, in a tool's turn."""
    reasoning_content: NotRequired[str]
    """An assistant's reasoning before its answer."""


@frozen
class Rendered:
    """A rendered conversation."""

    text: str
    origins: tuple[Origin, ...] = ()
    """The locations of traced messages and tools in the text."""
    answers: tuple[Span, ...] = ()
    """The template's `{% generation %}` blocks (characters), which the model generates; empty if the template has no
    such blocks."""

    def prefix(self, end: int) -> "Rendered":
        """Return the rendering truncated to its first `end` characters."""
        origins = tuple((s, min(e, end), source, offset) for s, e, source, offset in self.origins if s < end)
        answers = tuple((s, min(e, end)) for s, e in self.answers if s < end)
        return Rendered(self.text[:end], origins, answers)


@frozen
class ChatTemplate:
    """A model's chat template, as stored in its tokenizer_config.json or GGUF file.

    The language is Jinja with the settings and names that Hugging Face documents for chat templates
    (https://huggingface.co/docs/transformers/chat_templating_writing), including `{% generation %}` blocks.
    Templates receive `date` as today's date (`strftime_now`), so that a run gives the same results on any day. They
    come with downloaded models, so they run in Jinja's sandbox with a time limit, and cannot modify their arguments.

    Raises:
        ValueError: the template is not valid Jinja (the message contains the line number), or an argument or the date
            would have no effect.
    """

    source: str
    bos_token: str = ""
    eos_token: str = ""
    tool_source: str | None = None
    """A separate template for conversations with tools; null: `source`."""
    special_tokens: Mapping[str, Any] = field(factory=dict)
    """The tokenizer's other special tokens, by the names that templates use, such as `unk_token`."""
    arguments: Mapping[str, Any] = field(factory=dict)
    """Arguments of the template, such as `enable_thinking`."""
    date: str | None = None
    """The date that the template receives as today's (YYYY-MM-DD)."""

    def __attrs_post_init__(self) -> None:
        from jinja2 import TemplateSyntaxError

        try:
            variables = self.variables
        except TemplateSyntaxError as error:
            raise ValueError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
            ) from error
        except RecursionError as error:
            raise ValueError("the chat template is not valid Jinja: it is nested too deeply") from error
        self._check_arguments(variables)

    @property
    def variables(self) -> frozenset[str]:
        """Variables that the template reads but does not set, such as `messages` and `enable_thinking`."""
        return self._compiled.variables | self._compiled_for_tools.variables

    def mentions(self, name: str) -> bool:
        """Return whether the template contains a word, such as a role or a message field."""
        return re.search(rf"\b{re.escape(name)}\b", self._sources) is not None

    @cached_property
    def tests_for_none_content(self) -> bool:
        """Whether the template compares a turn's content with none, which it then expects in tool-call turns."""
        return re.search(r"content\W{0,3}\s*is\s+(not\s+)?none", self._sources, re.IGNORECASE) is not None

    @cached_property
    def tests_for_missing_content(self) -> bool:
        """Whether the template tests if a turn has a content field."""
        pattern = r"content\W{0,3}\s*is\s+(not\s+)?(un)?defined|['\"]content['\"]\s+(not\s+)?in\s"
        return re.search(pattern, self._sources) is not None

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> Rendered:
        """Render a conversation, and locate its traced parts and `{% generation %}` blocks in the text.

        Args:
            messages: The turns, oldest first; their texts may be `Traced`.
            add_generation_prompt: Append the text that begins an assistant's answer.
            tools: JSON schemas of the tools that the assistant may call.

        Raises:
            ValueError: the template rejects the messages, fails, or takes too long.
        """
        from torchtune.data._template_environment import GENERATION

        compiled = self._compiled_for_tools if tools else self._compiled
        variables = {
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }
        try:
            text = compiled.render({**self.special_tokens, **variables, **self.arguments})
        except Exception as error:  # A template is an arbitrary program and can raise anything.
            roles = ", ".join(message["role"] for message in messages) or "none"
            raise ValueError(f"the chat template failed (message roles: {roles}): {error}") from error
        if not isinstance(text, Traced):
            return Rendered(text)
        blocks = [(start, end) for start, end, source, _ in text.origins if source == GENERATION]
        origins = tuple(origin for origin in text.origins if origin[2] != GENERATION)
        return Rendered(str.__str__(text), origins, _merged(blocks))

    @property
    def _sources(self) -> str:
        return f"{self.source}\n{self.tool_source or ''}"

    @cached_property
    def _compiled(self) -> "Compiled":
        from torchtune.data._template_environment import compile_template

        return compile_template(self.source, self.date)

    @cached_property
    def _compiled_for_tools(self) -> "Compiled":
        from torchtune.data._template_environment import compile_template

        return self._compiled if self.tool_source is None else compile_template(self.tool_source, self.date)

    def _check_arguments(self, variables: frozenset[str]) -> None:
        from torchtune.data._template_environment import CLOCK

        for name in self.arguments:
            if name in _RESERVED:
                raise ValueError(
                    f"template_arguments.{name}: this variable is reserved for the conversation; remove the argument"
                )
            if name not in variables:
                arguments = sorted(
                    variables
                    - {*_RESERVED, *self.special_tokens, "raise_exception", "namespace", "range", CLOCK}
                )
                raise ValueError(
                    f"template_arguments.{name}: the chat template does not use it, so it would have no effect;"
                    f" the template uses {', '.join(arguments) or 'no arguments'}"
                )
        if self.date is not None and CLOCK not in variables:
            raise ValueError(
                "date: the chat template does not use today's date, so this option has no effect; remove it"
            )


def _merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Merge overlapping spans; only the outermost of nested blocks remains."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)


def unused_character(texts: Iterable[str]) -> str:
    """Return a character from Unicode's private use area that occurs in none of the texts.

    Templates do not use this area.

    Raises:
        ValueError: the texts contain all 6,400 characters of the area.
    """
    used = set().union(*texts)
    mark = next((mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in used), None)
    if mark is None:
        raise ValueError(
            "a conversation contains every character of Unicode's private use area; remove some of them"
        )
    return mark
