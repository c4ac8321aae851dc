"""Conversations of several turns."""

from typing import Any, Literal

from attrs import define, frozen

from torchtune.data import Example, Message, Note, Unlearnable, chat_example, check_chat
from torchtune.datasets._columns import check_characters, columns_of, optional_text, required
from torchtune.datasets._messages import Turns, is_json_turns, read_message, read_tools, read_turns
from torchtune.datasets._row_dataset import RowDataset
from torchtune.datasets._tables import Row

TrainOn = Literal["answers", "last", "everything"]
COLUMNS = ("messages", "conversations", "conversation")
"""Where conversations stand in OpenAI's and ShareGPT's files."""


@frozen
class Conversation:
    """Turns, the tools that they may call, and which of the assistant's are learnt."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    learnt: list[bool]
    """Of each of the assistant's."""
    notes: tuple[Note, ...] = ()


@define(eq=False, repr=False, slots=False)
class ChatDataset(RowDataset[Conversation, Example]):
    """Conversations through the tokenizer's own chat template.

    A row has a list of turns in a column `messages` or `conversations`: OpenAI's, each with a `role` and `content`, or
    ShareGPT's, with `from` and `value`; or such a list as JSON text. Or it has a `prompt` and its `completion`, texts
    or lists of turns, of which the latter is learnt. A column `tools` may hold the tools that can be called, `system`
    the system's turn of a conversation that has none. An assistant's turn with `"weight": 0` or `"train": false` is no
    target, nor is an empty one. Tool calls, `reasoning_content` and all other fields of a turn are passed to the
    template; what it does not write is reported, and is an error where the assistant's acts would be lost.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or the tokenizer has no chat template or it does not end answers.
    """

    column: str | None = None
    """The column of the turns. Null: `messages`, `conversations` or `conversation`."""
    tools_column: str = "tools"
    """The column of the tools, which may be missing."""
    system: str | None = None
    """A system's turn for conversations that have none. Null: the chat template's own, if it has one."""
    train_on: TrainOn = "answers"
    """What is a target: every turn of the assistant's ("answers"), the "last" one, or "everything"."""

    def __attrs_post_init__(self) -> None:
        check_chat(self.tokenizer)
        check_characters("system", self.system)
        super().__attrs_post_init__()

    def _parse(self, row: Row) -> Conversation | Unlearnable:
        turns = read_conversation(row, self.column)
        tools = read_row_tools(row, self.tools_column)
        messages = with_system(turns.messages, row, self.system)
        learnt = turns.learnt
        if not any(learnt):
            return Unlearnable("have no turn of the assistant's to learn")
        if self.train_on == "last":
            last = max(i for i, is_target in enumerate(learnt) if is_target)
            learnt = [i == last for i in range(len(learnt))]
        return Conversation(messages, tools, learnt, turns.notes)

    def _encode(self, parsed: Conversation, /) -> Example | Unlearnable:
        everything = self.train_on == "everything"  # empty answers and those of no weight too
        example = chat_example(
            self.tokenizer,
            parsed.messages,
            parsed.tools,
            train_on_input=everything,
            learnt=None if everything else parsed.learnt,
        )
        return self._fitted(example if everything else example.with_notes(parsed.notes))


def read_conversation(row: Row, column: str | None = None) -> Turns:
    """Read the turns of a row: in one column, or as a prompt and its completion.

    Args:
        row: Columns by name.
        column: The column of the turns. None: one of `COLUMNS`, or `prompt` and `completion`.

    Raises:
        ValueError: there are none; the message has the columns found.
    """
    name = column or next((name for name in COLUMNS if row.get(name) is not None), None)
    if name is not None:
        return read_turns(required(row, name, "conversation", "column"), name)
    if row.get("prompt") is None or row.get("completion") is None:
        empty = [name for name in (*COLUMNS, "prompt", "completion") if name in row and row[name] is None]
        if empty:
            raise ValueError(f"{empty[0]!r}: expected text or a list of turns, got null")
        raise ValueError(
            f"no column {' or '.join(map(repr, COLUMNS[:2]))} with a list of turns, and no 'prompt' and"
            f" 'completion'; {columns_of(row)}; dataset.column=NAME names another"
            " column of turns, and torchtune.datasets.InstructDataset reads questions and answers in columns"
        )
    prompt = turns_of(row["prompt"], "prompt", "user")
    completion = turns_of(row["completion"], "completion", "assistant")
    learnt = [False] * len(prompt.learnt) + completion.learnt
    return Turns([*prompt.messages, *completion.messages], learnt, completion.notes)


def turns_of(value: object, name: str, role: str) -> Turns:
    """Read text, one turn or several.

    Args:
        value: What a column holds.
        name: The column's name.
        role: Whose turn a text is.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str) and not is_json_turns(value):
        value = [{"role": role, "content": value}]
    return read_turns([value] if isinstance(value, dict) else value, name)


def read_row_tools(row: Row, column: str) -> list[dict[str, Any]] | None:
    """Read the tools of a row, in the column that is named or in OpenAI's older `functions`.

    Raises:
        ValueError: they are not written as tools are.
    """
    tools = read_tools(row.get(column), column)
    if tools is None and row.get("functions"):
        return [
            {"type": "function", "function": tool} for tool in read_tools(row["functions"], "functions") or []
        ]
    return tools


def with_system(messages: list[Message], row: Row, system: str | None) -> list[Message]:
    """Put a system's turn before turns that have none: the row's own in the column `system`, or the config's.

    Raises:
        ValueError: the column holds something else than text.
    """
    if messages[0]["role"] in ("system", "developer"):
        return messages
    of_row = optional_text(row, "system")
    if of_row.strip():
        system = of_row
    if system is None:
        return messages
    return [read_message({"role": "system", "content": system}, "system"), *messages]
