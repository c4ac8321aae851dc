"""Tasks and answers: as conversations, in Stanford Alpaca's prompt, or in one of your own."""

import re

from attrs import frozen

from torchtune.data import (
    Example,
    Message,
    Tokenizer,
    alpaca_prompt,
    chat_example,
    check_chat,
    plain_example,
)
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._row_dataset import (
    Nothing,
    OnError,
    RowDataset,
    Truncate,
    checked_columns,
    column,
    found,
)
from torchtune.datasets._source import Source, open_source
from torchtune.datasets._tables import Row

COLUMNS = ("instruction", "input", "output")
"""The fields of Stanford Alpaca, https://github.com/tatsu-lab/stanford_alpaca, "Data Release"."""

_TASK, _INPUT = "{instruction}", "{input}"


@frozen
class Task:
    """A task, what it is to be done with (often nothing), and its answer."""

    instruction: str
    input: str
    output: str


class InstructDataset(RowDataset[Task, Example]):
    """Tasks and answers, for models that chat through the tokenizer's own chat template.

    The rows have an `instruction`, an `input` (which may be empty or missing) and an `output`. The user's turn is
    the instruction and, two lines below, the input; the assistant's is the output. Rows with an empty
    output are left out and counted.

    Args:
        tokenizer: Encodes prompts and answers; the recipe passes it.
        source: The rows: a local file (.json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or a pattern of such
            files, the name of a data set on the Hugging Face hub, or a list of rows.
        columns: The columns' names there, where they are others: `{instruction: question, output: answer}`.
        template: "chat" for the tokenizer's chat template; "alpaca" for the prompt of Stanford Alpaca; or a text of
            your own with {instruction} and {input} in it, which the answer follows directly.
        system: The system's turn before every task. Null: the chat template's own, if it has one.
        train_on_input: Train on the prompt as well, not on the answer and the end of its turn alone.
        split: Which split of a data set on the hub.
        load_options: What else a data set on the hub needs: name, revision, data_dir, data_files,
            cache_dir (as `datasets.load_dataset` takes them). `streaming: true` reads it, or local Parquet files, as
            the run goes, with no copy on the disk; `rows` says how many rows of it make an epoch.
        max_seq_len: Longest example in tokens; null: any length.
        truncate: Where a longer one is cut: at its "right" or "left" end; "drop" leaves it out, as is one of which no
            target remains.
        on_error: What becomes of a row that cannot be used: "raise" an error, or "skip" it, counted.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, the tokenizer has no chat template or it does not
            end answers, or an argument has no meaning beside another.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - these are settings of a config, given by name.
        self,
        tokenizer: Tokenizer,
        source: Source,
        train_on_input: bool = False,
        columns: dict[str, str] | None = None,
        template: str = "chat",
        system: str | None = None,
        split: str = "train",
        load_options: LoadOptions | None = None,
        max_seq_len: int | None = None,
        truncate: Truncate = "right",
        on_error: OnError = "raise",
    ) -> None:
        if template == "chat":
            check_chat(tokenizer)
        elif system is not None:
            raise ValueError(
                f"system: has no place in the template {template!r}; leave it out, or write it there"
            )
        elif template != "alpaca" and _TASK not in template:
            raise ValueError(
                f"template: expected 'chat', 'alpaca', or a text with {_TASK} (and {_INPUT}) in it, got {template!r}"
            )
        self._tokenizer = tokenizer
        self._train_on_input = train_on_input
        self._columns = checked_columns(columns, COLUMNS)
        self._is_input_named = columns is not None and "input" in columns
        self._template, self._system = template, system
        super().__init__(open_source(source, split, load_options), max_seq_len, truncate, on_error)

    def _parse(self, row: Row) -> Task | Nothing:
        names = self._columns
        instruction = column(row, names["instruction"], "instruction")
        output = column(row, names["output"], "output")
        given = row.get(names["input"], None if self._is_input_named else "")
        if names["input"] not in row:
            if self._is_input_named:
                column(row, names["input"], "input")
            if any("input" in name.lower() for name in row if name not in names.values()):
                raise ValueError(f"no column 'input', only a similar one that would go unread; {found(row)}")
        if given is None:
            given = ""
        elif not isinstance(given, str):
            raise ValueError(f"{names['input']!r}: expected text, got {given!r}")
        if not (instruction.strip() or given.strip()):
            raise ValueError("'instruction' and 'input' are both empty; there is nothing to answer")
        return Task(instruction, given, output) if output.strip() else Nothing("have no answer")

    def _encode(self, parsed: Task, /) -> Example | Nothing:
        return self._fitted(self._example(parsed))

    def _example(self, parsed: Task) -> Example:
        tokenizer, learn_all = self._tokenizer, self._train_on_input
        if self._template == "chat":
            task = f"{parsed.instruction}\n\n{parsed.input}" if parsed.input else parsed.instruction
            messages = [Message(role="user", content=task), Message(role="assistant", content=parsed.output)]
            if self._system is not None:
                messages.insert(0, Message(role="system", content=self._system))
            return chat_example(tokenizer, messages, train_on_input=learn_all)
        if self._template == "alpaca":
            prompt = alpaca_prompt(parsed.instruction, parsed.input)
        else:
            values = {_TASK: parsed.instruction, _INPUT: parsed.input}
            prompt = re.sub(f"{_TASK}|{_INPUT}", lambda match: values[match[0]], self._template)
        return plain_example(tokenizer, prompt, parsed.output, train_on_input=learn_all)
