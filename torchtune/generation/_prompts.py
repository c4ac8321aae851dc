"""Read prompts from files, format them, and tokenize them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from attrs import evolve, field, frozen

from torchtune._similar_paths import did_you_mean_path
from torchtune.data import Message, Tokenizer, alpaca_prompt, chat_prompt, check_chat

Template = Literal["auto", "chat", "alpaca", "plain"]
"""The format of a prompt: the tokenizer's chat template, the Alpaca prompt template, or plain text. `auto`
is `chat` if the tokenizer has a chat template, otherwise `plain`."""


@frozen
class Prompt:
    """A prompt: text or the turns of a conversation, and optionally the beginning of the answer."""

    turns: Sequence[Message]
    """The turns, oldest first; the last turn is not the assistant's."""
    input: str = ""
    """Input of the last turn, such as text to summarize; may be empty."""
    tools: list[dict[str, Any]] | None = None
    """JSON schemas of the tools that the model may call."""
    answer: Message | None = None
    """The beginning of the assistant's answer, which the model continues; None: the answer has no prefill."""
    row: Mapping[str, Any] = field(factory=dict, eq=False)
    """The row that the prompt was read from."""

    @classmethod
    def from_text(cls, text: str, input: str = "", prefill: str = "") -> "Prompt":  # noqa: A002 -- the dataset's name
        """Build a prompt from text, optionally with an input and the beginning of the answer."""
        answer = _answer_start(prefill) if prefill else None
        return cls([Message(role="user", content=text)], input, answer=answer, row={"prompt": text})

    @property
    def prefill(self) -> str:
        """Text that the answer begins with."""
        return "" if self.answer is None else self.answer.get("content") or ""

    @property
    def text(self) -> str:
        """Text of the last turn, followed by its input."""
        content = self.turns[-1].get("content") or ""
        return f"{content}\n\n{self.input}" if self.input else content


def read_prompts(path: str | os.PathLike[str], *, continue_final_message: bool = False) -> list[Prompt]:
    """Read prompts from a file, in any format and row shape that datasets support.

    Args:
        path: A file of rows that `torchtune.datasets.open_data_source` reads: `.txt` with one prompt per line, `.json`,
            `.jsonl`, `.csv`, Parquet and others. A row contains text (`prompt` or `text`); an `instruction`, optionally
            with `input`, `system` and `history`; or a conversation (`messages`, `conversations`, or turns in `prompt`),
            optionally with `tools` and `system`. The final answer of a conversation is dropped. Any row may have a
            `prefill`, the text that the answer begins with. `Prompt.row` contains all fields of the row.
        continue_final_message: Whether to continue the final answer of a conversation instead of dropping it.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The format is not supported, the file is damaged or empty, or a row has no prompt.
    """
    from torchtune.datasets import open_data_source

    if not Path(path).expanduser().exists():
        message = f"prompts file not found: {path}"
        suggestion = did_you_mean_path(Path(path).expanduser(), Path.is_file)
        raise FileNotFoundError(f"{message}; {suggestion}" if suggestion else message)
    table = open_data_source(str(Path(path).expanduser()))
    prompts = []
    for i in range(len(table)):
        row = table[i]
        try:
            prompts.append(_prompt_from_row(row, continues=continue_final_message))
        except ValueError as error:
            raise ValueError(f"{table.location(i)}: {error}") from error
    return prompts


def _prompt_from_row(row: dict[str, Any], *, continues: bool) -> Prompt:
    prompt = _question_from_row(row, continues=continues)
    if row.get("prefill") is None:
        return prompt
    if prompt.answer is not None:
        raise ValueError(
            "both `prefill` and the conversation's last message begin the answer; remove one of them"
        )
    return evolve(prompt, answer=_answer_start(_nonempty_text("prefill", row["prefill"])))


def _answer_start(text: str) -> Message:
    return Message(role="assistant", content=text)


def _question_from_row(row: dict[str, Any], *, continues: bool) -> Prompt:
    from torchtune.datasets import read_conversation, read_row_tools, read_task, turns_of, with_system

    shapes = {
        "a conversation": any(
            row.get(name) is not None for name in ("messages", "conversations", "conversation")
        ),
        "an instruction": row.get("instruction") is not None,
        "a prompt": row.get("prompt") is not None,
        "text": row.get("text") is not None and set(row) == {"text"},
    }
    matching_shapes = [shape for shape, is_present in shapes.items() if is_present]
    if "a conversation" in matching_shapes:  # it includes the prompt
        matching_shapes = ["a conversation"]
    if len(matching_shapes) != 1:
        raise ValueError(
            "expected a string, or a row with exactly one of `instruction`, `prompt` or `messages`; got"
            f" {_describe_row(row) if not matching_shapes else 'a row with ' + ' and '.join(matching_shapes)}"
        )
    if matching_shapes == ["an instruction"]:
        task = read_task({**row, "output": ""})
        *turns, last, _ = task.messages()
        question = Message(**{**last, "content": task.instruction})
        return Prompt([*turns, question], task.input, row=row)
    if matching_shapes == ["text"]:
        return Prompt.from_text(_nonempty_text("a prompt", row["text"]))
    if matching_shapes == ["a conversation"]:
        turns = read_conversation(row).messages
    else:
        turns = turns_of(row["prompt"], "prompt", "user").messages
        _nonempty_text("prompt", turns[-1].get("content"))
    input_text = ""
    if (
        matching_shapes == ["a prompt"]
        and isinstance(row["prompt"], str)
        and len(turns) == 1
        and row.get("input")
    ):
        input_text = _nonempty_text("input", row["input"])
    answer = turns[-1] if continues and turns and turns[-1]["role"] == "assistant" else None
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or turns[-1]["role"] in ("system", "developer"):
        raise ValueError("the conversation has no turn to answer")
    return Prompt(with_system(turns, row, None), input_text, read_row_tools(row, "tools"), answer, row)


def _nonempty_text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: expected non-empty text, got {value!r}")
    return value


def _describe_row(row: Mapping[str, Any]) -> str:
    return f"a row with {', '.join(map(str, row))}" if row else "an empty row"


def pick_template(tokenizer: Tokenizer, template: Template, system: str | None = None) -> Template:
    """Resolve `auto`, and check that the tokenizer supports the template.

    Args:
        tokenizer: The model's tokenizer.
        template: The requested template.
        system: System prompt of the conversations, if any.

    Returns:
        The template, never `auto`.

    Raises:
        ValueError: The template is `chat`, but the tokenizer has no chat template, or its chat template does not end
            answers; the template does not support `system`; or its name is unknown.
    """
    if template not in get_args(Template):
        raise ValueError(f"template: expected one of {', '.join(get_args(Template))}, got {template!r}")
    resolved = template
    if template == "auto":
        resolved = "plain" if tokenizer.chat_template is None else "chat"
    if resolved == "chat":
        check_chat(tokenizer)
    elif system is not None:
        raise ValueError(
            f"system: the {resolved} template does not support a system prompt; remove system, or use template=chat"
            + (", for which the tokenizer needs a chat template" if template == "auto" else "")
        )
    return resolved


def encode_prompt(
    tokenizer: Tokenizer, prompt: Prompt, template: Template, system: str | None = None
) -> list[int]:
    """Format a prompt with a template, and tokenize it.

    Args:
        tokenizer: The model's tokenizer.
        prompt: The prompt.
        template: A template that `pick_template` returned.
        system: System prompt to use if the conversation has none.

    Raises:
        ValueError: The template does not support several turns or tools, or the chat template rejects them.
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
        unsupported = f"the {len(prompt.turns)} turns of a conversation" if len(prompt.turns) > 1 else "tools"
        raise ValueError(f"the {template} template does not support {unsupported}; use template=chat")
    text = prompt.text
    if template == "alpaca":
        text = alpaca_prompt(prompt.turns[0].get("content") or "", prompt.input)
    return _with_answer(tokenizer, text, prompt.prefill)


def _with_answer(tokenizer: Tokenizer, text: str, prefill: str) -> list[int]:
    """Tokenize text and the beginning of its answer, as `plain_example` does in training."""
    tokens = tokenizer.encode(text, add_eos=False)
    if not prefill:
        return tokens
    joined = tokenizer.encode(text + prefill, add_eos=False)
    is_continued = joined[: len(tokens)] == tokens
    return joined if is_continued else tokens + tokenizer.encode(prefill, add_bos=False, add_eos=False)
