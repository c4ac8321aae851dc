"""Traced conversations: every part carries its origin, so that it can be located in the rendered text."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from torchtune.data._template import ChatTemplate, Message, Rendered
from torchtune.data._traced import JsonObject, Traced, TracedFloat, TracedInt, changed, to_json

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Message fields that contain an assistant's reasoning, the standard one first."""

TOOLS = -1
"""The message index of sources that belong to tools."""


@frozen
class Source:
    """A part of a conversation that a template may render or drop: a string, a number, or the name of a flag."""

    message: int
    """Index of the message, or TOOLS."""
    part: str
    """The part of a message or tool to which this source belongs, such as `content` or `tool_calls[0].arguments`."""
    path: str
    """Dotted path, such as `messages.1.tool_calls.0.function.name`."""
    text: str
    is_name: bool = False
    """Whether this is the name of an entry, which may be missing if the entry's value is rendered."""


@frozen
class _Position:
    """Position of a value in a conversation."""

    message: int
    part: str
    path: str

    def entry(self, key: object, part: str | None = None) -> "_Position":
        """Return the position of an entry of the object or list at this position."""
        return _Position(self.message, self.part if part is None else part, f"{self.path}.{key}")


@define
class Conversation:
    """Traced messages and tools.

    Args:
        template: The chat template, which determines the names of some fields.
        messages: The turns.
        tools: JSON schemas.
    """

    template: ChatTemplate
    messages: list[Message]
    """The turns, traced."""
    tools: list[dict[str, Any]] | None
    """The tools, traced."""
    sources: list[Source] = field(factory=list)
    """All parts; the sources of traced text are indices into this list."""

    @classmethod
    def trace(
        cls, template: ChatTemplate, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> "Conversation":
        """Trace messages and tools."""
        self = cls(template, [], None)
        for i, message in enumerate(messages):
            self.messages.append(self._message(i, message))
        if tools:
            self.tools = [
                self._call(tool, _Position(TOOLS, str(i), f"tools.{i}")) for i, tool in enumerate(tools)
            ]
        return self

    def render(self, n: int, *, add_generation_prompt: bool = False) -> Rendered:
        """Render the first n messages with the chat template.

        Raises:
            ValueError: the template rejects them.
        """
        return self.template.render(self.messages[:n], add_generation_prompt, self.tools)

    def _message(self, index: int, message: Message) -> Message:
        fields: dict[str, Any] = {key: value for key, value in message.items() if value is not None}
        if fields["role"] == "developer" and not self.template.mentions("developer"):
            fields["role"] = "system"
        for name in REASONING[1:]:  # some programs store the same reasoning under two names
            if name in fields and any(
                fields.get(other) == fields[name] for other in REASONING if other != name
            ):
                del fields[name]
        position = _Position(index, "", f"messages.{index}")
        traced: dict[str, Any] = {}
        for key, value in self._with_content(fields).items():
            if key == "tool_calls" and isinstance(value, (list, tuple)):
                traced[key] = [
                    self._call(call, position.entry(f"{key}.{i}", _tool_call_part(i)))
                    for i, call in enumerate(value)
                ]
            else:
                self._add(traced, key, value, position.entry(key, key))
        return self._with_reasoning(traced)  # type: ignore[return-value]  # a mapping with these fields

    def _with_content(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Add missing content in the form that the template tests for: None, an empty string, or no field."""
        if "content" in fields or self.template.tests_for_missing_content:
            return fields
        content = None if self.template.tests_for_none_content else ""
        return {"role": fields["role"], "content": content, **fields}

    def _with_reasoning(self, message: dict[str, Any]) -> dict[str, Any]:
        """Copy the reasoning to each of the fields that templates read, as transformers does."""
        reasoning = [message[name] for name in REASONING if name in message]
        if not reasoning:
            return message
        return {"thinking": reasoning[0], **message, "reasoning_content": reasoning[0]}

    def _call(self, call: Any, position: _Position) -> Any:
        """Trace a tool or a tool call; a call's arguments become an object that templates can also use as JSON text."""
        if not isinstance(call, Mapping):
            return self._value(call, position)
        traced: dict[str, Any] = {}
        for key, value in call.items():
            inner = position.entry(key, f"{position.part}.{key}")
            if key == "function" and isinstance(value, Mapping):
                traced[key] = self._call(value, position.entry(key))
            elif key == "type" and value == "function":
                traced[key] = value  # the same for every tool, so it carries no information
            elif key == "arguments" and position.message != TOOLS and isinstance(value, (Mapping, str)):
                traced[key] = self._arguments(value, inner)
            else:
                self._add(traced, key, value, inner)
        return traced

    def _arguments(self, value: Mapping[str, Any] | str, position: _Position) -> Any:
        entries: Any = value
        if isinstance(value, str):
            try:
                entries = json.loads(value)
            except ValueError:
                entries = None
            if not isinstance(entries, dict):
                return self._value(value, position)
        arguments = JsonObject()
        for key, entry in entries.items():
            self._add(arguments, key, entry, position.entry(key), is_user_defined=True)
        arguments.text = changed(value, arguments) if isinstance(value, str) else to_json(arguments)
        return arguments

    def _add(
        self,
        traced: dict[str, Any],
        key: str,
        value: Any,
        position: _Position,
        *,
        is_user_defined: bool = False,
    ) -> None:
        """Trace an entry of an object: its value and, if the value is meaningless without it, its name.

        Args:
            traced: The object to add to.
            key: The entry's name.
            value: The entry's value.
            position: The entry's position.
            is_user_defined: Whether the names are chosen by the user, not defined by a format.
        """
        name = (
            self._traced(key, position, is_name=True) if is_user_defined or isinstance(value, bool) else key
        )
        traced[name] = self._value(value, position)

    def _value(self, value: Any, position: _Position) -> Any:
        if isinstance(value, str):
            return self._traced(value, position)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = TracedInt(value) if isinstance(value, int) else TracedFloat(value)
            number.source = self._source(str(value), position)
            return number
        if isinstance(value, Mapping):
            entries: dict[Any, Any] = {}
            for key, item in value.items():
                self._add(entries, key, item, position.entry(key), is_user_defined=True)
            return entries
        if isinstance(value, (list, tuple)):
            return [self._value(item, position.entry(i)) for i, item in enumerate(value)]
        return value

    def _traced(self, text: str, position: _Position, *, is_name: bool = False) -> Traced:
        return Traced.from_source(text, self._source(text, position, is_name=is_name))

    def _source(self, text: str, position: _Position, *, is_name: bool = False) -> int:
        self.sources.append(Source(position.message, position.part, position.path, text, is_name))
        return len(self.sources) - 1


def _tool_call_part(i: int) -> str:
    """Return the part name of a tool call; some templates render only the first call of a turn."""
    return "tool_calls[0]" if i == 0 else "tool_calls[1:]"


_TAG = re.compile(r"</?[\w|]+/?>|<\|[\w/]+\|>|\[/?[A-Z_]+\]")
"""Tags around parts of text, which a template may remove and render itself."""

REASONING_END = "</think>"


def without_tags(text: str) -> str:
    """Return text without tags such as `<think>` and without surrounding white space."""
    return _TAG.sub("", text).strip()
