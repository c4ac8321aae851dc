"""Conversations as files hold them: OpenAI's messages and ShareGPT's turns."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torchtune.data import Message

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""ShareGPT's names of those who speak, where they are not OpenAI's; LLaMA-Factory's data/README.md lists them."""

KNOWN = ("system", "developer", "user", "assistant", "tool")

_KEPT = ("tool_calls", "tool_call_id", "name")


def read_messages(value: Any, what: str) -> list[Message]:
    """Read a conversation in either format.

    Args:
        value: A list of turns: `{"role": ..., "content": ...}`, or `{"from": ..., "value": ...}`.
        what: What it is called in messages, such as the column's name.

    Raises:
        ValueError: it is none; the message says which turn is wrong, and how.
    """
    if not isinstance(value, list):
        raise ValueError(f"{what!r}: expected a list of turns, got {_kind(value)}")  # noqa: TRY004 - the user's data is wrong, not a call.
    if not value:
        raise ValueError(f"{what!r}: the conversation is empty")
    return [read_message(turn, f"{what}.{i}") for i, turn in enumerate(value)]


def read_message(turn: Any, what: str) -> Message:
    """Read one turn.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(turn, dict):
        raise ValueError(f"{what!r}: expected a turn with a role and its content, got {_kind(turn)}")  # noqa: TRY004 - the user's data is wrong, not a call.
    role_key, content_key = ("role", "content") if "role" in turn else ("from", "value")
    for key in (role_key, content_key):
        if key not in turn and not (key == "content" and turn.get("tool_calls")):
            raise ValueError(
                f"{what!r}: a turn has 'role' and 'content', or 'from' and 'value'; the keys found are"
                f" {', '.join(map(repr, turn)) or 'none'}"
            )
    said = turn[role_key]
    role = _ROLES.get(said, said) if isinstance(said, str) else said
    if role not in KNOWN:
        raise ValueError(f"{what!r}: the role is {said!r}, expected one of {', '.join((*KNOWN, *_ROLES))}")
    message = Message(role=role, content=_content(turn.get(content_key), bool(turn.get("tool_calls")), what))
    for key in _KEPT:
        if turn.get(key) is not None:
            message[key] = _with_arguments(turn[key], what) if key == "tool_calls" else turn[key]  # type: ignore[literal-required]
    return message


def is_learnt(turn: Mapping[str, Any]) -> bool:
    """Tell whether an assistant's turn is a target: OpenAI's fine-tuning files may say `"weight": 0`."""
    return bool(turn.get("weight", 1) != 0)


def read_tools(value: Any, what: str) -> list[dict[str, Any]] | None:
    """Read the tools that a conversation may call: a list of JSON schemas, or such a list as text.

    Raises:
        ValueError: it is none.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(
                f"{what!r}: expected a list of tools, got text that is no JSON: {error}"
            ) from error
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError(f"{what!r}: expected a list of tools, each a JSON schema, got {_kind(value)}")
    return value or None


def _content(value: Any, calls_tools: bool, what: str) -> str:
    if value is None and calls_tools:
        return ""
    if isinstance(value, list):  # OpenAI's parts
        for part in value:
            if (
                not isinstance(part, dict)
                or part.get("type") != "text"
                or not isinstance(part.get("text"), str)
            ):
                raise ValueError(f"{what!r}: only parts of text are supported, got {part!r}")
        return "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise ValueError(f"{what!r}: expected the content to be text, got {_kind(value)}")  # noqa: TRY004 - the user's data is wrong, not a call.
    return value


def _with_arguments(calls: Any, what: str) -> list[dict[str, Any]]:
    """Read arguments that are written as text, as OpenAI does, where chat templates expect an object."""
    if not isinstance(calls, Sequence) or not all(isinstance(call, dict) for call in calls):
        raise ValueError(f"{what!r}: expected tool_calls to be a list of objects, got {_kind(calls)}")
    read = []
    for call in calls:
        function = dict(call.get("function") or {})
        if isinstance(function.get("arguments"), str):
            try:
                function["arguments"] = json.loads(function["arguments"])
            except ValueError as error:
                raise ValueError(f"{what!r}: the arguments of a tool call are no JSON: {error}") from error
        read.append({**call, **({"function": function} if function else {})})
    return read


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r}"[:80]
