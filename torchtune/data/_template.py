"""Chat templates: how a model family writes a conversation out as one text."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from attrs import field, frozen

from torchtune.data._traced import Origin, Traced

if TYPE_CHECKING:
    from torchtune.data._template_environment import Compiled

_GIVEN = ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token")
"""What every template is given, and no argument of a config may replace."""

Span = tuple[int, int]
"""Where something begins and ends."""


class Message(TypedDict):
    """One turn of a conversation, which may have further fields that a template knows."""

    role: str
    """Who speaks: "system", "user" or "assistant", or what else the template knows."""
    content: str
    """What they say; empty where they only call a tool."""
    tool_calls: NotRequired[list[dict[str, Any]]]
    """The tools that an assistant calls, as OpenAI's chat API writes them."""
    tool_call_id: NotRequired[str]
    """Which call a tool's turn answers."""
    name: NotRequired[str]
    """The tool's name, in its own turn."""
    reasoning_content: NotRequired[str]
    """What an assistant thinks before it answers."""


@frozen
class Rendered:
    """A conversation as a template wrote it."""

    text: str
    origins: tuple[Origin, ...] = ()
    """Where pieces of traced messages and tools stand in it."""
    answers: tuple[Span, ...] = ()
    """The template's `{% generation %}` blocks (characters): what the model is to write. Templates without such blocks
    have none."""

    def until(self, end: int) -> "Rendered":
        """Return the text up to a character."""
        origins = tuple((s, min(e, end), source, offset) for s, e, source, offset in self.origins if s < end)
        answers = tuple((s, min(e, end)) for s, e in self.answers if s < end)
        return Rendered(self.text[:end], origins, answers)


@frozen
class ChatTemplate:
    """A model's chat template, as its tokenizer_config.json or GGUF file holds it.

    The language is Jinja with the settings and names that Hugging Face documents for chat templates
    (https://huggingface.co/docs/transformers/chat_templating_writing), `{% generation %}` blocks among them. Today's
    date (`strftime_now`) is `date`, so that the same run does not differ from day to day. Templates come with
    downloaded models, so they run in Jinja's sandbox, cannot change what they are given, and have a time limit.

    Raises:
        ValueError: it is not valid Jinja (the message has the line), or an argument or the date would have no effect.
    """

    source: str
    bos_token: str = ""
    eos_token: str = ""
    tool_source: str | None = None
    """The template for conversations with tools, where the model has one of its own; null: `source`."""
    special_tokens: Mapping[str, Any] = field(factory=dict)
    """The tokenizer's other special tokens, by the names that templates know, such as `unk_token`."""
    arguments: Mapping[str, Any] = field(factory=dict)
    """Arguments of the template, such as `enable_thinking`."""
    date: str | None = None
    """The date that the template is given as today's (YYYY-MM-DD)."""

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
        """The names that the template reads and does not set itself, such as `messages` and `enable_thinking`."""
        return self._compiled.variables | self._compiled_for_tools.variables

    def mentions(self, name: str) -> bool:
        """Tell whether the template contains a word, such as a role or a field of messages."""
        return re.search(rf"\b{re.escape(name)}\b", self._sources) is not None

    @cached_property
    def asks_whether_content_is_none(self) -> bool:
        """Whether the template compares a turn's content with none, as those do that expect it of a tool call."""
        return re.search(r"content\W{0,3}\s*is\s+(not\s+)?none", self._sources, re.IGNORECASE) is not None

    @cached_property
    def asks_whether_content_is_missing(self) -> bool:
        """Whether the template asks if a turn has any content."""
        pattern = r"content\W{0,3}\s*is\s+(not\s+)?(un)?defined|['\"]content['\"]\s+(not\s+)?in\s"
        return re.search(pattern, self._sources) is not None

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> Rendered:
        """Write a conversation out, and tell where traced pieces of it and the model's own words stand.

        Args:
            messages: The turns, oldest first; their texts may be `Traced`.
            add_generation_prompt: End with the words that open the assistant's answer.
            tools: JSON schemas of the tools that the assistant may call.

        Raises:
            ValueError: the template refuses these messages, fails, or takes too long.
        """
        from torchtune.data._template_environment import GENERATION

        compiled = self._compiled_for_tools if tools else self._compiled
        given = {
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }
        try:
            text = compiled.render({**self.special_tokens, **given, **self.arguments})
        except Exception as error:  # A template is a program of its own and may fail in any way.
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(f"the chat template refused messages of the roles {roles}: {error}") from error
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
            if name in _GIVEN:
                raise ValueError(
                    f"template_arguments.{name}: the chat template is given this by the conversation"
                )
            if name not in variables:
                own = sorted(
                    variables
                    - {*_GIVEN, *self.special_tokens, "raise_exception", "namespace", "range", CLOCK}
                )
                raise ValueError(
                    f"template_arguments.{name}: the chat template does not read it, so that it would have no effect;"
                    f" it reads {', '.join(own) or 'no arguments'}"
                )
        if self.date is not None and CLOCK not in variables:
            raise ValueError(
                "date: the chat template does not ask for today's date, so that it would have no effect; leave it out"
            )


def _merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join spans that overlap: of nested blocks the outer one counts."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)


def unused_mark(texts: Iterable[str]) -> str:
    """Return a character that none of the texts has; it is of the private use area, which templates do without.

    Raises:
        ValueError: they have all of its 6,400 characters.
    """
    used = set().union(*texts)
    mark = next((mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in used), None)
    if mark is None:
        raise ValueError(
            "a conversation has every character of Unicode's private use area; take some out of it"
        )
    return mark
