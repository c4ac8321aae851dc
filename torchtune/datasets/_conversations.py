"""Datasets of multi-turn conversations."""

from typing import Any, Literal

from attrs import define, frozen

from torchtune.data import Example, Message, Note, SkipReason, chat_example, check_chat
from torchtune.datasets._columns import check_characters, columns_of, optional_text, required_column
from torchtune.datasets._messages import Turns, is_json_turns, read_message, read_tools, read_turns
from torchtune.datasets._row_dataset import RowDataset
from torchtune.datasets._tables import Row

TrainOn = Literal["answers", "last", "everything"]
COLUMNS = ("messages", "conversations", "conversation")
"""Columns of conversations in OpenAI's and ShareGPT's files."""


@frozen
class Conversation:
    """Turns, the tools that the assistant may call, and flags that mark the assistant's target turns."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    target_flags: list[bool]
    """Whether each of the assistant's turns is a target, in order."""
    notes: tuple[Note, ...] = ()


@define(eq=False, repr=False, slots=False)
class ChatDataset(RowDataset[Conversation, Example]):
    """Conversations, encoded with the tokenizer's chat template.

    A row has a list of turns in a column `messages` or `conversations`, in OpenAI's format (`role` and `content`) or
    ShareGPT's (`from` and `value`), as a list or as JSON text. Alternatively, it has a `prompt` and a `completion`,
    each as text or a list of turns; only the completion is trained on. A column `tools` may list the tools that can
    be called, and a column `system` may contain the system prompt if the turns do not contain one. An assistant turn
    that is empty, or has `"weight": 0` or `"train": false`, is not a target. Tool calls, `reasoning_content` and all
    other fields of a turn are passed to the template. Parts that the template does not render are reported; if
    they include the assistant's tool calls or reasoning, ValueError is raised.

    Raises:
        FileNotFoundError: The file or dataset does not exist.
        ConnectionError: The hub cannot be reached.
        ValueError: The rows are not in this format, or the tokenizer's chat template is missing or does not end the
            assistant's turns.
    """

    column: str | None = None
    """The column of the turns. Null: `messages`, `conversations` or `conversation`."""
    tools_column: str = "tools"
    """The column of the tools; it may be missing."""
    system: str | None = None
    """A system turn for conversations without one. Null: the chat template's default, if any."""
    train_on: TrainOn = "answers"
    """The targets: all the assistant's turns ("answers"), the "last" one, or "everything"."""

    def __attrs_post_init__(self) -> None:
        check_chat(self.tokenizer)
        check_characters("system", self.system)
        super().__attrs_post_init__()

    def _parse(self, row: Row) -> Conversation | SkipReason:
        turns = read_conversation(row, self.column)
        tools = read_row_tools(row, self.tools_column)
        messages = with_system(turns.messages, row, self.system)
        target_flags = turns.target_flags
        if not any(target_flags):
            return SkipReason("have no assistant turn to train on")
        if self.train_on == "last":
            last = max(i for i, is_target in enumerate(target_flags) if is_target)
            target_flags = [i == last for i in range(len(target_flags))]
        return Conversation(messages, tools, target_flags, turns.notes)

    def _encode(self, parsed: Conversation, /) -> Example | SkipReason:
        everything = self.train_on == "everything"  # including empty answers and answers with weight 0
        example = chat_example(
            self.tokenizer,
            parsed.messages,
            parsed.tools,
            train_on_input=everything,
            is_target=None if everything else parsed.target_flags,
        )
        return self._truncate(example if everything else example.with_notes(parsed.notes))


def read_conversation(row: Row, column: str | None = None) -> Turns:
    """Read the turns of a row from one column, or from a prompt and its completion.

    Args:
        row: Columns by name.
        column: The column of the turns. None: one of `COLUMNS`, or `prompt` and `completion`.

    Raises:
        ValueError: The row has no turns (the message lists its columns), or they are invalid.
    """
    name = column or next((name for name in COLUMNS if row.get(name) is not None), None)
    if name is not None:
        return read_turns(required_column(row, name, "conversation", "column"), name)
    if row.get("prompt") is None or row.get("completion") is None:
        empty = [name for name in (*COLUMNS, "prompt", "completion") if name in row and row[name] is None]
        if empty:
            raise ValueError(f"{empty[0]!r}: expected text or a list of turns, got null")
        raise ValueError(
            f"no column {' or '.join(map(repr, COLUMNS[:2]))} with a list of turns, and no 'prompt' and"
            f" 'completion'; {columns_of(row)}; to read turns from a different column, set dataset.column=NAME; if"
            " questions and answers are in separate columns, use torchtune.datasets.InstructDataset"
        )
    prompt = turns_of(row["prompt"], "prompt", "user")
    completion = turns_of(row["completion"], "completion", "assistant")
    target_flags = [False] * len(prompt.target_flags) + completion.target_flags
    return Turns([*prompt.messages, *completion.messages], target_flags, completion.notes)


def turns_of(value: object, name: str, role: str) -> Turns:
    """Read turns from text, one turn, or a list of turns.

    Args:
        value: The value of a column.
        name: The column's name, for messages.
        role: The role of the turn if the value is text.

    Raises:
        ValueError: The value is anything else.
    """
    if isinstance(value, str) and not is_json_turns(value):
        value = [{"role": role, "content": value}]
    return read_turns([value] if isinstance(value, dict) else value, name)


def read_row_tools(row: Row, column: str) -> list[dict[str, Any]] | None:
    """Read the tools of a row, from the given column or from OpenAI's older `functions`.

    Raises:
        ValueError: The column does not contain a list of JSON schemas.
    """
    tools = read_tools(row.get(column), column)
    if tools is None and row.get("functions"):
        return [
            {"type": "function", "function": tool} for tool in read_tools(row["functions"], "functions") or []
        ]
    return tools


def with_system(messages: list[Message], row: Row, system: str | None) -> list[Message]:
    """Prepend a missing system turn, from the row's column `system` or, if it has none, from the config.

    Raises:
        ValueError: The column does not contain text.
    """
    if messages[0]["role"] in ("system", "developer"):
        return messages
    row_system = optional_text(row, "system")
    if row_system.strip():
        system = row_system
    if system is None:
        return messages
    return [read_message({"role": "system", "content": system}, "system"), *messages]
