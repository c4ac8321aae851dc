"""Tasks and answers, encoded with a chat template, the Alpaca prompt template, or a custom one."""

import re

from attrs import define, evolve, field, frozen

from torchtune.data import (
    Example,
    Message,
    Note,
    SkipReason,
    alpaca_prompt,
    chat_example,
    check_chat,
    plain_example,
    quote_excerpt,
)
from torchtune.datasets._columns import check_characters, checked_columns, column, columns_of, optional_text
from torchtune.datasets._messages import EMPTY_ANSWERS
from torchtune.datasets._row_dataset import RowDataset
from torchtune.datasets._tables import Row

COLUMNS = ("instruction", "input", "output", "system", "history")
"""The fields of Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca, "Data Release"), and the two that
LLaMA-Factory adds (data/README.md): a system turn, and earlier turns as pairs of a question and its answer."""

_TASK, _INPUT = "{instruction}", "{input}"


@frozen
class Task:
    """A task, its input (often empty), and its answer."""

    instruction: str
    input: str
    output: str
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[Message]:
        """Return the task as a conversation."""
        task = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        turns = [*self.history, (task, self.output)]
        messages = [
            Message(role=role, content=content)
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        return messages if self.system is None else [Message(role="system", content=self.system), *messages]


@define(eq=False, repr=False, slots=False)
class InstructDataset(RowDataset[Task, Example]):
    """Tasks and answers, encoded with the tokenizer's chat template or with a plain-text prompt.

    Rows have an `instruction`, an `input` (which may be empty or missing) and an `output`. The user's turn is the
    instruction, followed by a blank line and the input; the assistant's turn is the output. Rows with an empty output
    are skipped, and their number is reported. With a chat template, a row may also have a `system` turn and a
    `history`, a list of earlier questions and answers, whose answers are targets too.

    Raises:
        FileNotFoundError: The file or dataset does not exist.
        ConnectionError: The hub cannot be reached.
        ValueError: The rows are not in this format; the tokenizer's chat template is missing or does not end the
            assistant's turns; or two arguments conflict.
    """

    train_on_input: bool = False
    """Train on the prompt as well, not only on the answer and its end-of-turn token."""
    columns: dict[str, str] | None = None
    """The source's column names, if they differ from the defaults: `{instruction: question, output: answer}`."""
    template: str = "chat"
    """"chat" for the tokenizer's chat template; "alpaca" for the Alpaca prompt template; or a custom one with the
    placeholders {instruction} and {input}, directly followed by the answer."""
    system: str | None = None
    """System message for rows that have none; null: the chat template's default, if any."""
    _names: dict[str, str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.template == "chat":
            check_chat(self.tokenizer)
        elif self.system is not None:
            raise ValueError(
                f"system is not used by the template {self.template!r}; remove it, or include it in the template"
            )
        elif self.template != "alpaca" and _TASK not in self.template:
            raise ValueError(
                f"template: expected 'chat', 'alpaca', or text that contains {_TASK} (and {_INPUT}), got"
                f" {self.template!r}"
            )
        check_characters("system", self.system)
        self._names = checked_columns(self.columns, COLUMNS, required=("instruction", "output"))
        super().__attrs_post_init__()

    def _parse(self, row: Row) -> Task | SkipReason:
        task = read_task(row, self._names, is_chat=self.template == "chat")
        if task.system is None and self.system is not None:
            task = evolve(task, system=self.system)
        return task if task.output.strip() else SkipReason("have no answer")

    def _encode(self, parsed: Task, /) -> Example | SkipReason:
        return self._truncate(self._example(parsed))

    def _example(self, parsed: Task) -> Example:
        train_on_all = self.train_on_input
        if self.template == "chat":
            target_flags = [bool(answer.strip()) for _, answer in parsed.history] + [True]
            example = chat_example(
                self.tokenizer,
                parsed.messages(),
                train_on_input=train_on_all,
                is_target=None if train_on_all else target_flags,
            )
            return example if all(target_flags) or train_on_all else example.with_notes([EMPTY_ANSWERS])
        if self.template == "alpaca":
            prompt = alpaca_prompt(parsed.instruction, parsed.input)
        else:
            values = {_TASK: parsed.instruction, _INPUT: parsed.input}
            prompt = re.sub(f"{_TASK}|{_INPUT}", lambda match: values[match[0]], self.template)
        example = plain_example(self.tokenizer, prompt, parsed.output, train_on_input=train_on_all)
        if parsed.input.strip() and self.template != "alpaca" and _INPUT not in self.template:
            note = Note(f"have an input, but the template has no {_INPUT}", quote_excerpt(parsed.input))
            return example.with_notes([note])
        return example


def read_task(row: Row, columns: dict[str, str] | None = None, *, is_chat: bool = True) -> Task:
    """Read a task and its answer.

    Args:
        row: Columns by name.
        columns: The column name of each field. None: the field names.
        is_chat: Whether to read a system turn and earlier turns.

    Raises:
        ValueError: A column is missing or has the wrong type; the message does not contain the row's location.
    """
    names = {name: name for name in COLUMNS} if columns is None else columns
    instruction = column(row, names["instruction"], "instruction")
    output = column(row, names["output"], "output")
    input_text = _input(row, names)
    if not (instruction.strip() or input_text.strip()):
        raise ValueError("'instruction' and 'input' are both empty; there is nothing to answer")
    if not is_chat:
        return Task(instruction, input_text, output)
    system = optional_text(row, names.get("system"))
    return Task(
        instruction,
        input_text,
        output,
        system if system.strip() else None,
        _history(row, names.get("history")),
    )


def _input(row: Row, names: dict[str, str]) -> str:
    """Read the input of a task."""
    name = names.get("input")
    if name is not None and name not in row:
        if name != "input":
            column(row, name, "input")
        if any("input" in other.lower() for other in row if other not in names.values()):
            raise ValueError(
                f"no column 'input', and a column with a similar name is not used; {columns_of(row)}; to use it, set"
                " dataset.columns={input: NAME}"
            )
    return optional_text(row, name)


def _history(row: Row, name: str | None) -> tuple[tuple[str, str], ...]:
    """Read the earlier turns of a task."""
    if name is None or name not in row:
        return ()
    pairs = row[name] or []
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise ValueError(f"{name!r}: expected a list of pairs [question, answer], got {pairs!r}")
    return tuple((str(question), str(answer)) for question, answer in pairs)


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(text, str) for text in value)
    )
