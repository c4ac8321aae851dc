"""Conversations as files hold them: OpenAI's messages, ShareGPT's turns, and what people made of both."""

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
"""Other names of those who speak: ShareGPT's, as LLaMA-Factory's data/README.md lists them, OpenAI's older `function`,
and ms-swift's."""

_CALLS = ("function_call", "tool_call")
"""The roles whose content is a tool call, as JSON."""

KNOWN = ("system", "developer", "user", "assistant", "tool")

_FLAGS = ("train", "training", "loss")
"""Fields that say whether a turn is learnt, by true or false: axolotl's and ms-swift's."""


EMPTY_ANSWERS = Note("have empty answers, which are not learnt")


@frozen
class Turns:
    """A conversation."""

    messages: list[Message]
    learnt: list[bool]
    """Of each of the assistant's turns, whether it is to be learnt."""
    notes: tuple[Note, ...] = field(default=(), eq=False)
    """What happened to it on the way."""


def read_turns(value: Any, what: str) -> Turns:
    """Read a conversation in any format.

    Args:
        value: A list of turns: `{"role": ..., "content": ...}`, or `{"from": ..., "value": ...}`; or its JSON text.
            Further fields of a turn, such as `reasoning_content`, are for the chat template. An assistant's turn with
            `"weight": 0` or `"train": false` is not learnt, nor is one that says and does nothing.
        what: What it is called in messages, such as the column's name.

    Raises:
        ValueError: it is none; the message says which turn is wrong, and how.
    """
    turns = _list(value, what)
    messages, learnt, notes = [], [], []
    for i, turn in enumerate(turns):
        message = read_message(turn, f"{what}.{i}")
        if message["role"] == "assistant":
            is_target = _is_learnt(turn, f"{what}.{i}")
            is_empty = not does_something(message)
            learnt.append(is_target and not is_empty)
            if is_target and is_empty:
                notes.append(evolve(EMPTY_ANSWERS, example=f"{what}.{i}"))
        messages.append(message)
    return Turns(messages, learnt, tuple(notes))


def _list(value: Any, what: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value, what, "expected a list of turns, got text that is not valid JSON")
    if not isinstance(value, list):
        raise ValueError(f"{what!r}: expected a list of turns, got {_kind(value)}")  # noqa: TRY004 - the user's data is wrong, not a call.
    if not value:
        raise ValueError(f"{what!r}: the conversation is empty")
    return value


def is_json_turns(text: str) -> bool:
    """Tell whether a text is JSON of a list of turns, and not a text that speaks of JSON."""
    if re.match(r"\s*\[\s*\{", text) is None:
        return False
    try:
        turns = parse_text(text)
    except JsonError:
        return False
    return bool(turns) and all(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns
    )


def read_message(turn: Any, what: str) -> Message:
    """Read one turn.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(turn, dict):
        raise ValueError(f"{what!r}: expected a turn with a role and its content, got {_kind(turn)}")  # noqa: TRY004 - the user's data is wrong, not a call.
    role_key, content_key = ("role", "content") if "role" in turn else ("from", "value")
    own = {
        key: value for key, value in turn.items() if value is not None and key not in (role_key, content_key)
    }
    said = turn.get(role_key)
    role = _ROLES.get(said, said) if isinstance(said, str) else said
    acts = any(own.get(key) for key in ("tool_calls", "function_call")) or role == "assistant"
    if role_key not in turn or (content_key not in turn and not (content_key == "content" and acts)):
        raise ValueError(
            f"{what!r}: a turn has 'role' and 'content', or 'from' and 'value'; the keys found are"
            f" {', '.join(map(repr, turn)) or 'none'}"
        )
    if role not in KNOWN:
        raise ValueError(
            f"{what!r}: the role is {'null' if said is None else repr(said)}, expected one of"
            f" {', '.join((*KNOWN, *_ROLES))}"
        )
    if said in _CALLS:
        return _calling(turn[content_key], own, what)
    content, thought = _content(turn.get(content_key), what, is_optional=acts)
    message = Message(role=role, content=content)
    _take_calls(message, own, what)
    if thought and not own.get("reasoning_content"):
        own["reasoning_content"] = thought
    _drop_flags(own, role)
    message.update(own)  # type: ignore[typeddict-item]  # the rest is for the template
    return message


def _calling(content: Any, own: dict[str, Any], what: str) -> Message:
    """Read a turn that is a tool call, or a list of them, as JSON."""
    calls = (
        _json(content, what, "expected a tool call as JSON, got text that is not")
        if isinstance(content, str)
        else content
    )
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise ValueError(
            f"{what!r}: expected tool calls, each with a name and arguments, got {_kind(content)}"
        )
    _drop_flags(own, "assistant")
    message = Message(role="assistant", content="", tool_calls=_calls(calls, what))
    message.update(own)  # type: ignore[typeddict-item]  # the rest is for the template
    return message


def _take_calls(message: Message, own: dict[str, Any], what: str) -> None:
    """Move a turn's tool calls to where chat templates look for them."""
    calls = own.pop("tool_calls", None)
    older = own.pop("function_call", None)
    if calls and older:
        raise ValueError(f"{what!r}: has both 'tool_calls' and the older 'function_call'; leave one out")
    if older:
        calls = [older]
    if isinstance(calls, str):
        calls = _json(calls, what, "expected tool_calls to be a list, got text that is not valid JSON")
    if calls:
        message["tool_calls"] = _calls(calls, what)


def _calls(calls: Any, what: str) -> list[dict[str, Any]]:
    """Write tool calls as OpenAI's chat API does, with arguments as an object.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(calls, Sequence) or not all(isinstance(call, dict) for call in calls):
        raise ValueError(f"{what!r}: expected tool_calls to be a list of objects, got {_kind(calls)}")
    return [_call(call, f"{what}.tool_calls.{i}") for i, call in enumerate(calls)]


def _call(call: dict[str, Any], what: str) -> dict[str, Any]:
    inner = call.get("function")
    if not isinstance(inner, dict):
        if not isinstance(call.get("name"), str):
            raise ValueError(f"{what!r}: expected a tool call with a name and arguments, got {_kind(call)}")  # noqa: TRY004 - the user's data is wrong, not a call.
        flat = ("name", "arguments", "parameters")  # some write what is passed as they write what is taken
        inner = {key: call[key] for key in flat if call.get(key) is not None}
        call = {key: value for key, value in call.items() if key not in inner}
    else:
        inner = {key: value for key, value in inner.items() if value is not None}
    if "arguments" not in inner and "parameters" in inner:
        inner["arguments"] = inner.pop("parameters")
    arguments = inner.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        arguments = _json(arguments, what, "expected arguments as JSON, got text that is not")
    inner["arguments"] = arguments = arguments or {}
    if not isinstance(arguments, dict):
        twice = "; the text is JSON that was written as JSON once more" if isinstance(arguments, str) else ""
        raise ValueError(f"{what!r}: expected arguments to be an object, got {_kind(arguments)}{twice}")  # noqa: TRY004 - the user's data is wrong, not a call.
    outer = {key: value for key, value in call.items() if value is not None and key != "function"}
    return {"type": "function", **outer, "function": inner}


def _is_learnt(turn: Mapping[str, Any], what: str) -> bool:
    """Tell whether an assistant's turn is a target: OpenAI's fine-tuning files may say `"weight": 0`.

    Raises:
        ValueError: a flag has a value that means neither yes nor no.
    """
    weight = turn.get("weight")
    if weight is not None and (isinstance(weight, (str, list, dict)) or weight not in (0, 1)):
        raise ValueError(
            f"{what!r}: expected a weight of 0 or 1, got {weight!r}; other weights are not supported"
        )
    wanted = weight is None or weight == 1
    for name in _FLAGS:
        flag = turn.get(name)
        if flag is not None and not isinstance(flag, bool):
            raise ValueError(f"{what!r}: expected {name!r} to be true or false, got {flag!r}")
        wanted &= flag is not False
    return wanted


def _drop_flags(own: dict[str, Any], role: str) -> None:
    """Take out the flags that are read, or that say of another's turn what is so anyway."""
    for name in ("weight", *_FLAGS):
        if name in own and (role == "assistant" or not own[name]):
            del own[name]


def does_something(message: Message) -> bool:
    """Tell whether a turn says, thinks or calls anything."""
    thoughts = any(
        str(message.get(name) or "").strip() for name in ("reasoning_content", "reasoning", "thinking")
    )
    return bool((message.get("content") or "").strip() or message.get("tool_calls") or thoughts)


def read_tools(value: Any, what: str) -> list[dict[str, Any]] | None:
    """Read the tools that a conversation may call: a list of JSON schemas, or such a list as text.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str):
        not_json = "expected a list of tools, got text that is not JSON"
        value = _json(value, what, not_json) if value.strip() else None
    if value is None:
        return None
    if isinstance(value, list):
        value = [
            _json(tool, what, "expected a tool's JSON schema, got text that is not JSON")
            if isinstance(tool, str)
            else tool
            for tool in value
        ]
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError(f"{what!r}: expected a list of tools, each a JSON schema, got {_kind(value)}")
    return value or None


def _content(value: Any, what: str, *, is_optional: bool) -> tuple[str, str]:
    """Return what a turn says, and what it thinks before."""
    if value is None and is_optional:
        return "", ""
    if isinstance(value, list):  # OpenAI's parts
        said, thought = list[str](), list[str]()
        for part in value:
            kind = part.get("type") if isinstance(part, dict) else None
            text = (part.get("text") or part.get(kind)) if kind in ("text", "thinking", "reasoning") else None
            if kind == "text" and part.get("text") == "":
                continue
            if not isinstance(text, str):
                raise ValueError(f"{what!r}: only parts of text are supported, got {part!r}")  # noqa: TRY004 - as above.
            (said if kind == "text" else thought).append(text)
        return "".join(said), "".join(thought)
    if not isinstance(value, str):
        raise ValueError(f"{what!r}: expected the content to be text, got {_kind(value)}")  # noqa: TRY004 - the user's data is wrong, not a call.
    return value, ""


def _json(text: str, what: str, otherwise: str) -> Any:
    try:
        value = parse_text(text)
    except JsonError as error:
        raise ValueError(f"{what!r}: {otherwise}: {error}") from error
    check_characters(repr(what), value)
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r}"[:80]
