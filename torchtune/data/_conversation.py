"""A conversation as a template is given it: every part is traced, so that it can be told what was written of it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from torchtune.data._template import ChatTemplate, Message, Rendered
from torchtune.data._traced import JsonObject, Traced, TracedFloat, TracedInt, changed, to_json

REASONING = ("reasoning_content", "thinking", "reasoning")
"""The fields in which people and templates keep what an assistant thinks, the standard one first."""

TOOLS = -1
"""Stands for the tools where otherwise the number of a message is meant."""


@frozen
class Source:
    """A part of a conversation that can be written or lost: a text, a number, or a name with a flag."""

    message: int
    """The number of the message, or TOOLS."""
    part: str
    """Which part of a message or tool it belongs to, such as `content` or `tool_calls[0].arguments`."""
    path: str
    """Where it is, such as `messages.1.tool_calls.0.function.name`."""
    text: str
    """The text itself."""
    is_name: bool = False
    """Whether it is the name of an entry, which may go without saying where its value is written."""


@frozen
class _At:
    """Where in a conversation a value is."""

    message: int
    part: str
    path: str

    def entry(self, key: object, part: str | None = None) -> "_At":
        """Return where an entry of an object or list is that is here."""
        return _At(self.message, self.part if part is None else part, f"{self.path}.{key}")


@define
class Conversation:
    """Traced messages and tools.

    Args:
        template: It tells how some fields are to be named.
        messages: The turns.
        tools: JSON schemas.
    """

    template: ChatTemplate
    messages: list[Message]
    """The turns, traced."""
    tools: list[dict[str, Any]] | None
    """The tools, traced."""
    sources: list[Source] = field(factory=list)
    """All parts, by the numbers that traced text has."""

    @classmethod
    def trace(
        cls, template: ChatTemplate, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> "Conversation":
        """Trace messages and tools."""
        self = cls(template, [], None)
        for i, message in enumerate(messages):
            self.messages.append(self._message(i, message))
        if tools:
            self.tools = [self._call(tool, _At(TOOLS, str(i), f"tools.{i}")) for i, tool in enumerate(tools)]
        return self

    def render(self, n: int, *, add_generation_prompt: bool = False) -> Rendered:
        """Write the first messages out through the chat template.

        Raises:
            ValueError: the template refuses them.
        """
        return self.template.render(self.messages[:n], add_generation_prompt, self.tools)

    def _message(self, number: int, message: Message) -> Message:
        fields: dict[str, Any] = {key: value for key, value in message.items() if value is not None}
        if fields["role"] == "developer" and not self.template.mentions("developer"):
            fields["role"] = "system"
        for name in REASONING[1:]:  # some programs write the same thought under two names
            if name in fields and any(
                fields.get(other) == fields[name] for other in REASONING if other != name
            ):
                del fields[name]
        at = _At(number, "", f"messages.{number}")
        traced: dict[str, Any] = {}
        for key, value in self._with_content(fields).items():
            if key == "tool_calls" and isinstance(value, (list, tuple)):
                traced[key] = [
                    self._call(call, at.entry(f"{key}.{i}", _numbered(i))) for i, call in enumerate(value)
                ]
            else:
                self._add(traced, key, value, at.entry(key, key))
        return self._with_reasoning(traced)  # type: ignore[return-value]  # a mapping with these fields

    def _with_content(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Say that a turn has no content in the way that the template asks for it."""
        if "content" in fields or self.template.asks_whether_content_is_missing:
            return fields
        content = None if self.template.asks_whether_content_is_none else ""
        return {"role": fields["role"], "content": content, **fields}

    def _with_reasoning(self, message: dict[str, Any]) -> dict[str, Any]:
        """Name what is thought in each of the ways that templates read, as transformers does for them."""
        thoughts = [message[name] for name in REASONING if name in message]
        if not thoughts:
            return message
        return {"thinking": thoughts[0], **message, "reasoning_content": thoughts[0]}

    def _call(self, call: Any, at: _At) -> Any:
        """Trace a tool or a call of one, whose arguments are an object that may also be taken for its JSON text."""
        if not isinstance(call, Mapping):
            return self._value(call, at)
        traced: dict[str, Any] = {}
        for key, value in call.items():
            inner = at.entry(key, f"{at.part}.{key}")
            if key == "function" and isinstance(value, Mapping):
                traced[key] = self._call(value, at.entry(key))
            elif key == "type" and value == "function":
                traced[key] = value  # is said of every one, and so says nothing
            elif key == "arguments" and at.message != TOOLS and isinstance(value, (Mapping, str)):
                traced[key] = self._arguments(value, inner)
            else:
                self._add(traced, key, value, inner)
        return traced

    def _arguments(self, value: Mapping[str, Any] | str, at: _At) -> Any:
        entries: Any = value
        if isinstance(value, str):
            try:
                entries = json.loads(value)
            except ValueError:
                entries = None
            if not isinstance(entries, dict):
                return self._value(value, at)
        arguments = JsonObject()
        for key, entry in entries.items():
            self._add(arguments, key, entry, at.entry(key), is_free=True)
        arguments.text = changed(value, arguments) if isinstance(value, str) else to_json(arguments)
        return arguments

    def _add(self, traced: dict[str, Any], key: str, value: Any, at: _At, *, is_free: bool = False) -> None:
        """Trace an entry of an object: its value and, where that says nothing without it, its name.

        Args:
            traced: The object.
            key: The entry's name.
            value: Its value.
            at: Where it is.
            is_free: Whether the object's names are the user's, and not those of a format.
        """
        name = self._traced(key, at, is_name=True) if is_free or isinstance(value, bool) else key
        traced[name] = self._value(value, at)

    def _value(self, value: Any, at: _At) -> Any:
        if isinstance(value, str):
            return self._traced(value, at)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = TracedInt(value) if isinstance(value, int) else TracedFloat(value)
            number.source = self._source(str(value), at)
            return number
        if isinstance(value, Mapping):
            entries: dict[Any, Any] = {}
            for key, item in value.items():
                self._add(entries, key, item, at.entry(key), is_free=True)
            return entries
        if isinstance(value, (list, tuple)):
            return [self._value(item, at.entry(i)) for i, item in enumerate(value)]
        return value

    def _traced(self, text: str, at: _At, *, is_name: bool = False) -> Traced:
        return Traced.of_source(text, self._source(text, at, is_name=is_name))

    def _source(self, text: str, at: _At, *, is_name: bool = False) -> int:
        self.sources.append(Source(at.message, at.part, at.path, text, is_name))
        return len(self.sources) - 1


def _numbered(i: int) -> str:
    """Name a tool call by whether it is the first of its turn, since some templates write no others."""
    return "tool_calls[0]" if i == 0 else "tool_calls[1:]"


_TAG = re.compile(r"</?[\w|]+/?>|<\|[\w/]+\|>|\[/?[A-Z_]+\]")
"""Marks around parts of a text, which a template may take out and write itself."""

THOUGHT_END = "</think>"


def without_marks(text: str) -> str:
    """Return a text without blanks at its ends and without marks such as `<think>`."""
    return _TAG.sub("", text).strip()
