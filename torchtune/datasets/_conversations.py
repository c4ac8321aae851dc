"""Conversations of several turns."""

from typing import Any, Literal

from attrs import frozen

from torchtune.data import Example, Message, Tokenizer, chat_example, check_chat
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._messages import is_learnt, read_messages, read_tools
from torchtune.datasets._row_dataset import Nothing, OnError, RowDataset, Truncate, found, required
from torchtune.datasets._source import Source, open_source
from torchtune.datasets._tables import Row

COLUMNS = ("messages", "conversations", "conversation")
"""Where conversations stand in OpenAI's and ShareGPT's files."""


@frozen
class Conversation:
    """Turns, the tools that they may call, and which of the assistant's are learnt."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    learnt: list[bool] | None
    """Of each of the assistant's; None: all."""


class ChatDataset(RowDataset[Conversation, Example]):
    """Conversations through the tokenizer's own chat template.

    A row has a list of turns in a column `messages` or `conversations`: OpenAI's, each with a `role` and `content`, or
    ShareGPT's, with `from` and `value`. A column `tools` may hold the tools that can be called. An assistant's turn
    with `"weight": 0` is no target.

    Args:
        tokenizer: Its chat template writes the conversations out; the recipe passes it.
        source: The rows: a local file (.json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or a pattern of such
            files, the name of a data set on the Hugging Face hub, or a list of rows.
        column: The column of the turns. Null: `messages`, `conversations` or `conversation`.
        tools_column: The column of the tools, which may be missing.
        system: A system's turn for conversations that have none. Null: the chat template's own, if it has one.
        train_on: What is a target: every turn of the assistant's ("answers"), the "last" one, or "everything".
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
        ValueError: the rows are not as they must be, or the tokenizer has no chat template or it does not end answers.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - these are settings of a config, given by name.
        self,
        tokenizer: Tokenizer,
        source: Source,
        column: str | None = None,
        tools_column: str = "tools",
        system: str | None = None,
        train_on: Literal["answers", "last", "everything"] = "answers",
        split: str = "train",
        load_options: LoadOptions | None = None,
        max_seq_len: int | None = None,
        truncate: Truncate = "right",
        on_error: OnError = "raise",
    ) -> None:
        check_chat(tokenizer)
        self._tokenizer = tokenizer
        self._column, self._tools_column = column, tools_column
        self._system, self._train_on = system, train_on
        super().__init__(open_source(source, split, load_options), max_seq_len, truncate, on_error)

    def _parse(self, row: Row) -> Conversation | Nothing:
        name = self._column or next((name for name in COLUMNS if name in row), None)
        if name is None:
            raise ValueError(
                f"no column {' or '.join(map(repr, COLUMNS[:2]))} with a list of turns; {found(row)}"
            )
        turns = required(row, name, "conversation")
        messages = read_messages(turns, name)
        tools = read_tools(row.get(self._tools_column), self._tools_column)
        if self._system is not None and messages[0]["role"] != "system":
            messages.insert(0, Message(role="system", content=self._system))
        assert isinstance(turns, list)
        asked = [
            turn for turn, m in zip(turns, messages[-len(turns) :], strict=True) if m["role"] == "assistant"
        ]
        learnt = [is_learnt(turn) for turn in asked]
        if not any(learnt):
            return Nothing("have no turn of the assistant's to learn")
        if self._train_on == "last":  # what follows the last that is learnt would only be read
            at = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
            last = max(i for i, is_target in zip(at, learnt, strict=True) if is_target)
            return Conversation(messages[: last + 1], tools, None)
        return Conversation(messages, tools, None if all(learnt) else learnt)

    def _encode(self, parsed: Conversation, /) -> Example | Nothing:
        everything = self._train_on == "everything"
        example = chat_example(
            self._tokenizer,
            parsed.messages,
            parsed.tools,
            train_on_input=everything,
            turns="last" if self._train_on == "last" else "all",
            learnt=None if everything else parsed.learnt,
        )
        return self._fitted(example)
