"""The formats of conversations in files: OpenAI's messages, ShareGPT's turns, and their variants."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from torchtune.data import Message, Note
from torchtune.datasets._columns import check_characters
from torchtune.datasets._json_values import JsonError, parse_text

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""Other names for roles: ShareGPT's (listed in LLaMA-Factory's data/README.md), OpenAI's older `function`, and
ms-swift's."""

_CALLS = ("function_call", "tool_call")
"""The roles whose content is a tool call, as JSON."""

KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool")

_FLAGS = ("train", "training", "loss")
"""Boolean fields of axolotl and ms-swift that determine whether a turn is a target."""


EMPTY_ANSWERS = Note("have empty answers, which are not trained on")


@frozen
class Turns:
    """A conversation."""

    messages: list[Message]
    target_flags: list[bool]
    """Whether each of the assistant's turns is a target, in order."""
    notes: tuple[Note, ...] = field(default=(), eq=False)
    """Notes to report about the conversation."""


def read_turns(value: Any, name: str) -> Turns:
    """Read a conversation in any format.

    Args:
        value: A list of turns: `{"role": ..., "content": ...}`, or `{"from": ..., "value": ...}`; or its JSON text.
            Further fields of a turn, such as `reasoning_content`, are passed to the chat template. An assistant turn
            that is empty, or has `"weight": 0` or `"train": false`, is not a target.
        name: The name of the conversation in error messages, such as the column's name.

    Raises:
        ValueError: The value is not a conversation; the message names the invalid turn and the reason.
    """
    turns = _turn_list(value, name)
    messages, target_flags, notes = [], [], []
    for i, turn in enumerate(turns):
        message = read_message(turn, f"{name}.{i}")
        if message["role"] == "assistant":
            is_target = _is_target(turn, f"{name}.{i}")
            is_empty = not has_output(message)
            target_flags.append(is_target and not is_empty)
            if is_target and is_empty:
                notes.append(evolve(EMPTY_ANSWERS, example=f"{name}.{i}"))
        messages.append(message)
    return Turns(messages, target_flags, tuple(notes))


def _turn_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value, name, "expected a list of turns, got text that is not valid JSON")
    if not isinstance(value, list):
        raise ValueError(f"{name!r}: expected a list of turns, got {_kind(value)}")  # noqa: TRY004 -- invalid data, not an argument of the wrong type
    if not value:
        raise ValueError(f"{name!r}: the conversation is empty")
    return value


def is_json_turns(text: str) -> bool:
    """Return whether text is a JSON list of turns, rather than text that merely begins like JSON."""
    if re.match(r"\s*\[\s*\{", text) is None:
        return False
    try:
        turns = parse_text(text)
    except JsonError:
        return False
    return bool(turns) and all(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns
    )


def read_message(turn: Any, name: str) -> Message:
    """Read one turn.

    Raises:
        ValueError: The value is not a turn.
    """
    if not isinstance(turn, dict):
        raise ValueError(f"{name!r}: expected a turn with a role and its content, got {_kind(turn)}")  # noqa: TRY004 -- invalid data, not an argument of the wrong type
    role_key, content_key = ("role", "content") if "role" in turn else ("from", "value")
    fields = {
        key: value for key, value in turn.items() if value is not None and key not in (role_key, content_key)
    }
    role_name = turn.get(role_key)
    role = _ROLES.get(role_name, role_name) if isinstance(role_name, str) else role_name
    may_be_empty = any(fields.get(key) for key in ("tool_calls", "function_call")) or role == "assistant"
    if role_key not in turn or (content_key not in turn and not (content_key == "content" and may_be_empty)):
        raise ValueError(
            f"{name!r}: expected a turn with 'role' and 'content', or 'from' and 'value', got the keys"
            f" {', '.join(map(repr, turn)) or '(none)'}"
        )
    if role not in KNOWN_ROLES:
        raise ValueError(
            f"{name!r}: unknown role {'null' if role_name is None else repr(role_name)}; expected one of"
            f" {', '.join((*KNOWN_ROLES, *_ROLES))}"
        )
    if role_name in _CALLS:
        return _read_tool_call_turn(turn[content_key], fields, name)
    content, reasoning = _content(turn.get(content_key), name, is_optional=may_be_empty)
    message = Message(role=role, content=content)
    _move_calls(message, fields, name)
    if reasoning and not fields.get("reasoning_content"):
        fields["reasoning_content"] = reasoning
    _drop_flags(fields, role)
    message.update(fields)  # type: ignore[typeddict-item]  # the other fields are for the template
    return message


def _read_tool_call_turn(content: Any, fields: dict[str, Any], name: str) -> Message:
    """Read a turn whose content is a tool call or a list of tool calls, as JSON."""
    calls = (
        _json(content, name, "expected a tool call as JSON, got text that is not JSON")
        if isinstance(content, str)
        else content
    )
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise ValueError(
            f"{name!r}: expected tool calls, each with a name and arguments, got {_kind(content)}"
        )
    _drop_flags(fields, "assistant")
    message = Message(role="assistant", content="", tool_calls=_calls(calls, name))
    message.update(fields)  # type: ignore[typeddict-item]  # the other fields are for the template
    return message


def _move_calls(message: Message, fields: dict[str, Any], name: str) -> None:
    """Move a turn's tool calls to the field that chat templates read."""
    calls = fields.pop("tool_calls", None)
    older = fields.pop("function_call", None)
    if calls and older:
        raise ValueError(f"{name!r} has both 'tool_calls' and the older 'function_call'; remove one of them")
    if older:
        calls = [older]
    if isinstance(calls, str):
        calls = _json(calls, name, "expected tool_calls to be a list, got text that is not valid JSON")
    if calls:
        message["tool_calls"] = _calls(calls, name)


def _calls(calls: Any, name: str) -> list[dict[str, Any]]:
    """Return tool calls in the format of OpenAI's chat API, with arguments as an object.

    Raises:
        ValueError: The value is not a list of tool calls.
    """
    if not isinstance(calls, Sequence) or not all(isinstance(call, dict) for call in calls):
        raise ValueError(f"{name!r}: expected tool_calls to be a list of objects, got {_kind(calls)}")
    return [_call(call, f"{name}.tool_calls.{i}") for i, call in enumerate(calls)]


def _call(call: dict[str, Any], name: str) -> dict[str, Any]:
    inner = call.get("function")
    if not isinstance(inner, dict):
        if not isinstance(call.get("name"), str):
            raise ValueError(f"{name!r}: expected a tool call with a name and arguments, got {_kind(call)}")  # noqa: TRY004 -- invalid data, not an argument of the wrong type
        flat = ("name", "arguments", "parameters")  # some datasets have `parameters` instead of `arguments`
        inner = {key: call[key] for key in flat if call.get(key) is not None}
        call = {key: value for key, value in call.items() if key not in inner}
    else:
        inner = {key: value for key, value in inner.items() if value is not None}
    if "arguments" not in inner and "parameters" in inner:
        inner["arguments"] = inner.pop("parameters")
    arguments = inner.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        arguments = _json(arguments, name, "expected arguments as JSON, got text that is not JSON")
    inner["arguments"] = arguments = arguments or {}
    if not isinstance(arguments, dict):
        twice = "; they seem to be encoded as JSON twice" if isinstance(arguments, str) else ""
        raise ValueError(f"{name!r}: expected arguments to be an object, got {_kind(arguments)}{twice}")  # noqa: TRY004 -- invalid data, not an argument of the wrong type
    outer = {key: value for key, value in call.items() if value is not None and key != "function"}
    return {"type": "function", **outer, "function": inner}


def _is_target(turn: Mapping[str, Any], name: str) -> bool:
    """Return whether an assistant turn is a target; `"weight": 0` in OpenAI's fine-tuning files excludes it.

    Raises:
        ValueError: A flag is not a boolean, or a weight is neither 0 nor 1.
    """
    weight = turn.get("weight")
    if weight is not None and (isinstance(weight, (str, list, dict)) or weight not in (0, 1)):
        raise ValueError(
            f"{name!r}: expected a weight of 0 or 1, got {weight!r}; other weights are not supported"
        )
    is_target = weight is None or weight == 1
    for key in _FLAGS:
        flag = turn.get(key)
        if flag is not None and not isinstance(flag, bool):
            raise ValueError(f"{name!r}: expected {key!r} to be true or false, got {flag!r}")
        is_target &= flag is not False
    return is_target


def _drop_flags(fields: dict[str, Any], role: str) -> None:
    """Remove the flags of assistant turns, which have been read, and redundant flags of other turns."""
    for key in ("weight", *_FLAGS):
        if key in fields and (role == "assistant" or not fields[key]):
            del fields[key]


def has_output(message: Message) -> bool:
    """Return whether a turn has any text, reasoning or tool call."""
    has_reasoning = any(
        str(message.get(key) or "").strip() for key in ("reasoning_content", "reasoning", "thinking")
    )
    return bool((message.get("content") or "").strip() or message.get("tool_calls") or has_reasoning)


def read_tools(value: Any, name: str) -> list[dict[str, Any]] | None:
    """Read the tools that a conversation may call: a list of JSON schemas, or such a list as JSON text.

    Raises:
        ValueError: The value is not a list of tools.
    """
    if isinstance(value, str):
        not_json = "expected a list of tools, got text that is not JSON"
        value = _json(value, name, not_json) if value.strip() else None
    if value is None:
        return None
    if isinstance(value, list):
        value = [
            _json(tool, name, "expected a tool's JSON schema, got text that is not JSON")
            if isinstance(tool, str)
            else tool
            for tool in value
        ]
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError(f"{name!r}: expected a list of tools, each a JSON schema, got {_kind(value)}")
    return value or None


def _content(value: Any, name: str, *, is_optional: bool) -> tuple[str, str]:
    """Return the text of a turn, and its reasoning."""
    if value is None and is_optional:
        return "", ""
    if isinstance(value, list):  # OpenAI's parts
        texts, reasoning = list[str](), list[str]()
        for part in value:
            kind = part.get("type") if isinstance(part, dict) else None
            text = (part.get("text") or part.get(kind)) if kind in ("text", "thinking", "reasoning") else None
            if kind == "text" and part.get("text") == "":
                continue
            if not isinstance(text, str):
                raise ValueError(f"{name!r}: only text parts are supported, got {part!r}")  # noqa: TRY004 -- as above
            (texts if kind == "text" else reasoning).append(text)
        return "".join(texts), "".join(reasoning)
    if not isinstance(value, str):
        raise ValueError(f"{name!r}: expected the content to be text, got {_kind(value)}")  # noqa: TRY004 -- invalid data, not an argument of the wrong type
    return value, ""


def _json(text: str, name: str, problem: str) -> Any:
    try:
        value = parse_text(text)
    except JsonError as error:
        raise ValueError(f"{name!r}: {problem}: {error}") from error
    check_characters(repr(name), value)
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r}"[:80]
