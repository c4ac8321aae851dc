"""What a model is asked, read from files and written out as it was taught to read it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from attrs import evolve, field, frozen

from torchtune._near_paths import did_you_mean_path
from torchtune.data import Message, Tokenizer, alpaca_prompt, chat_prompt, check_chat

Template = Literal["auto", "chat", "alpaca", "plain"]
"""How a prompt is written out: by the tokenizer's chat template, in Stanford Alpaca's way, or as the text that it is.
`auto` is the first where there is a chat template, and the last where there is none."""


@frozen
class Prompt:
    """What a model is asked: one text, or the turns of a conversation; and maybe how the answer begins."""

    turns: Sequence[Message]
    """The turns, oldest first; the last is not the assistant's."""
    input: str = ""
    """What the last turn is about, such as a text to summarise; empty: it stands alone."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the tools that may be called."""
    answer: Message | None = None
    """The beginning of the assistant's answer, which is continued; None: nothing is prescribed."""
    row: Mapping[str, Any] = field(factory=dict, eq=False)
    """The row of a file that it was read from."""

    @classmethod
    def of_text(cls, text: str, input: str = "", prefill: str = "") -> "Prompt":  # noqa: A002 -- the data set's word
        """Make a prompt of one text, its answer beginning with another."""
        answer = _beginning(prefill) if prefill else None
        return cls([Message(role="user", content=text)], input, answer=answer, row={"prompt": text})

    @property
    def prefill(self) -> str:
        """The text that the answer begins with."""
        return "" if self.answer is None else self.answer.get("content") or ""

    @property
    def text(self) -> str:
        """What the last turn says, with its input."""
        said = self.turns[-1].get("content") or ""
        return f"{said}\n\n{self.input}" if self.input else said


def read_prompts(path: str | os.PathLike[str], *, continue_final_message: bool = False) -> list[Prompt]:
    """Read the prompts of a file, in all formats and shapes that datasets read.

    Args:
        path: A file of rows, as `torchtune.datasets.open_source` takes it: `.txt` with one prompt a line, `.json`,
            `.jsonl`, `.csv`, Parquet and others. A row has a text (`prompt` or `text`); an `instruction`, and maybe
            `input`, `system` and `history`; or a conversation (`messages`, `conversations`, or a `prompt` of turns), of
            which an answer at the end is left out, and maybe `tools` and `system`; and maybe `prefill`, a text that
            the answer begins with. Other fields are kept in `Prompt.row`.
        continue_final_message: An answer at the end of a conversation is not left out, but continued.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is of another kind, or damaged, a row has no prompt, or there is none at all.
    """
    from torchtune.datasets import open_source

    if not Path(path).expanduser().exists():
        message = f"no file {path}; prompts were to be read from it"
        near = did_you_mean_path(Path(path).expanduser(), Path.is_file)
        raise FileNotFoundError(f"{message}; {near}" if near else message)
    table = open_source(str(Path(path).expanduser()))
    prompts = []
    for i in range(len(table)):
        row = table[i]
        try:
            prompts.append(_of_row(row, continues=continue_final_message))
        except ValueError as error:
            raise ValueError(f"{table.place(i)}: {error}") from error
    return prompts


def _of_row(row: dict[str, Any], *, continues: bool) -> Prompt:
    prompt = _question_of_row(row, continues=continues)
    if row.get("prefill") is None:
        return prompt
    if prompt.answer is not None:
        raise ValueError(
            "the answer begins with `prefill` and with the conversation's last message; leave one out"
        )
    return evolve(prompt, answer=_beginning(_something("prefill", row["prefill"])))


def _beginning(text: str) -> Message:
    return Message(role="assistant", content=text)


def _question_of_row(row: dict[str, Any], *, continues: bool) -> Prompt:
    from torchtune.datasets import read_conversation, read_row_tools, read_task, turns_of, with_system

    shapes = {
        "a conversation": any(
            row.get(name) is not None for name in ("messages", "conversations", "conversation")
        ),
        "an instruction": row.get("instruction") is not None,
        "a prompt": row.get("prompt") is not None,
        "a text": row.get("text") is not None and set(row) == {"text"},
    }
    named = [shape for shape, is_there in shapes.items() if is_there]
    if "a conversation" in named:  # it has the prompt in it
        named = ["a conversation"]
    if len(named) != 1:
        raise ValueError(
            "a prompt is a text, or a row with one of `instruction`, `prompt` and `messages`; this one is"
            f" {_described(row) if not named else 'a row with ' + ' and '.join(named)}"
        )
    if named == ["an instruction"]:
        task = read_task({**row, "output": ""})
        *turns, last, _ = task.messages()
        asked = Message(**{**last, "content": task.instruction})
        return Prompt([*turns, asked], task.input, row=row)
    if named == ["a text"]:
        return Prompt.of_text(_something("a prompt", row["text"]))
    if named == ["a conversation"]:
        turns = read_conversation(row).messages
    else:
        turns = turns_of(row["prompt"], "prompt", "user").messages
        _something("prompt", turns[-1].get("content"))
    about = ""
    if named == ["a prompt"] and isinstance(row["prompt"], str) and len(turns) == 1 and row.get("input"):
        about = _something("input", row["input"])
    answer = turns[-1] if continues and turns and turns[-1]["role"] == "assistant" else None
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or turns[-1]["role"] in ("system", "developer"):
        raise ValueError("the conversation has no turn that is to be answered")
    return Prompt(with_system(turns, row, None), about, read_row_tools(row, "tools"), answer, row)


def _something(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: expected a text with something in it, got {value!r}")
    return value


def _described(row: Mapping[str, Any]) -> str:
    return f"a row with {', '.join(map(str, row)) or 'nothing'}"


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
        if system is not None and prompt.turns[0]["role"] not in ("system", "developer"):
            first = [Message(role="system", content=system)]
        last = Message(**{**prompt.turns[-1], "content": prompt.text})
        turns = [*first, *prompt.turns[:-1], last]
        if prompt.answer is None:
            return chat_prompt(tokenizer, turns, prompt.tools)
        return chat_prompt(tokenizer, [*turns, prompt.answer], prompt.tools, continue_final_message=True)
    if len(prompt.turns) > 1 or prompt.tools:
        what = f"the {len(prompt.turns)} turns of a conversation" if len(prompt.turns) > 1 else "tools"
        raise ValueError(f"the {template} template has no place for {what}; write template=chat")
    text = prompt.text
    if template == "alpaca":
        text = alpaca_prompt(prompt.turns[0].get("content") or "", prompt.input)
    return _with_answer(tokenizer, text, prompt.prefill)


def _with_answer(tokenizer: Tokenizer, text: str, prefill: str) -> list[int]:
    """Encode a text and the beginning of its answer, as `plain_example` does in training."""
    tokens = tokenizer.encode(text, add_eos=False)
    if not prefill:
        return tokens
    both = tokenizer.encode(text + prefill, add_eos=False)
    is_continued = both[: len(tokens)] == tokens
    return both if is_continued else tokens + tokenizer.encode(prefill, add_bos=False, add_eos=False)
