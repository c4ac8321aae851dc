"""What a model is asked, read from files and written out as it was taught to read it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from attrs import field, frozen

from torchtune.data import Message, Tokenizer, alpaca_prompt, chat_prompt, check_chat

Template = Literal["auto", "chat", "alpaca", "plain"]
"""How a prompt is written out: by the tokenizer's chat template, in Stanford Alpaca's way, or as the text that it is.
`auto` is the first where there is a chat template, and the last where there is none."""

_KINDS = (".txt", ".json", ".jsonl")


@frozen
class Prompt:
    """What a model is asked: one text, or the turns of a conversation."""

    turns: Sequence[Message]
    """The turns, oldest first; the last is not the assistant's."""
    input: str = ""
    """What the last turn is about, such as a text to summarise; empty: it stands alone."""
    row: Mapping[str, Any] = field(factory=dict, eq=False)
    """The row of a file that it was read from."""

    @classmethod
    def of_text(cls, text: str, input: str = "", row: Mapping[str, Any] | None = None) -> "Prompt":  # noqa: A002 -- the data set's word
        """Make a prompt of one text."""
        return cls([Message(role="user", content=text)], input, {"prompt": text} if row is None else row)

    @property
    def text(self) -> str:
        """What the last turn says, with its input."""
        said = self.turns[-1].get("content") or ""
        return f"{said}\n\n{self.input}" if self.input else said


def read_prompts(path: str | os.PathLike[str]) -> list[Prompt]:
    """Read the prompts of a file.

    Args:
        path: A `.txt` with one prompt a line, of which empty ones are passed over; or a `.jsonl` of rows or a `.json`
            with a list of them. A row is a text; or has `instruction` or `prompt`, and maybe `input`; or `messages`, of
            which an answer at the end is left out. Other fields are kept in `Prompt.row`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is of another kind, or damaged, a row has no prompt, or there is none at all.
    """
    file = Path(path)
    if file.suffix not in _KINDS:
        raise ValueError(f"{file}: a file of prompts is a {', '.join(_KINDS[:-1])} or {_KINDS[-1]}")
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}; prompts were to be read from it")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text in UTF-8 ({error}); save it as one") from error
    found = _of_lines(file, text) if file.suffix != ".json" else _of_list(file, text)
    if not found:
        raise ValueError(f"{file} holds no prompt")
    return found


def _of_lines(file: Path, text: str) -> list[Prompt]:
    lines = [(f"{file}:{n}", line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if file.suffix == ".txt":
        return [Prompt.of_text(line) for _, line in lines]
    return [_of_row(where, _json(where, line)) for where, line in lines]


def _of_list(file: Path, text: str) -> list[Prompt]:
    rows = _json(str(file), text)
    if not isinstance(rows, list):
        raise ValueError(f"{file}: a list of rows is expected, it holds {_described(rows)}")  # noqa: TRY004 -- the file is wrong
    return [_of_row(f"{file}, row {n}", row) for n, row in enumerate(rows, start=1)]


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error


def _of_row(where: str, row: Any) -> Prompt:
    if isinstance(row, str):
        return Prompt.of_text(_something(where, "a prompt", row))
    names = [name for name in ("instruction", "prompt", "messages") if isinstance(row, dict) and name in row]
    if len(names) != 1:
        found = f"a row with {' and '.join(names)}" if names else _described(row)
        raise ValueError(
            f"{where}: a prompt is a text, or a row with one of `instruction` and `prompt` (and maybe `input`) and"
            f" `messages`; this one is {found}"
        )
    if names[0] == "messages":
        return Prompt(_turns(where, row["messages"]), row=row)
    about = _something(where, "input", row["input"]) if row.get("input") else ""
    return Prompt.of_text(_something(where, names[0], row[names[0]]), about, row)


def _something(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {name} is to be a text with something in it, got {value!r}")
    return value


def _turns(where: str, value: Any) -> list[Message]:
    """Check the turns of a conversation, and leave out the answer that it ends with."""
    if not isinstance(value, list) or not all(map(_is_turn, value)):
        raise ValueError(f"{where}: messages is a list of objects with two texts, `role` and `content`")
    turns: list[Message] = list(value)
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or turns[-1]["role"] == "system":
        raise ValueError(f"{where}: messages has no turn that is to be answered")
    return turns


def _is_turn(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    return isinstance(value.get("content") or "", str)  # Who only calls a tool says nothing.


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return f"a row with {', '.join(map(str, value)) or 'nothing'}"
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), repr(value))


def pick_template(tokenizer: Tokenizer, template: Template, system: str | None = None) -> Template:
    """Tell which template is meant, once it is known to work with a tokenizer.

    Args:
        tokenizer: The model's.
        template: What was asked for.
        system: What conversations shall begin with.

    Returns:
        Anything but `auto`.

    Raises:
        ValueError: the tokenizer has no chat template and shall use one, or one that does not end answers; the template
            has no place for `system`; or there is no such template.
    """
    if template not in get_args(Template):
        raise ValueError(f"template: expected one of {', '.join(get_args(Template))}, got {template!r}")
    picked = template
    if template == "auto":
        picked = "plain" if tokenizer.chat_template is None else "chat"
    if picked == "chat":
        check_chat(tokenizer)
    elif system is not None:
        raise ValueError(
            f"system: the {picked} template has no place for one; leave it out, or write template=chat"
            + (", for which the tokenizer needs a chat template" if template == "auto" else "")
        )
    return picked


def encode_prompt(
    tokenizer: Tokenizer, prompt: Prompt, template: Template, system: str | None = None
) -> list[int]:
    """Write a prompt out as the model was taught to read it, and encode it.

    Args:
        tokenizer: The model's.
        prompt: What is asked.
        template: What `pick_template` returned.
        system: What a conversation begins with that has no system's turn of its own.

    Raises:
        ValueError: the template has no place for several turns, or refuses them.
    """
    if template == "chat":
        first = []
        if system is not None and prompt.turns[0]["role"] != "system":
            first = [Message(role="system", content=system)]
        last = Message(**{**prompt.turns[-1], "content": prompt.text})
        return chat_prompt(tokenizer, [*first, *prompt.turns[:-1], last])
    if len(prompt.turns) > 1:
        raise ValueError(
            f"the {template} template has no place for the {len(prompt.turns)} turns of a conversation; write"
            " template=chat"
        )
    if template == "alpaca":
        instruction = prompt.turns[0].get("content") or ""
        return tokenizer.encode(alpaca_prompt(instruction, prompt.input), add_eos=False)
    return tokenizer.encode(prompt.text, add_eos=False)
