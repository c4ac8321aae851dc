"""A dataset for rows of any layout, chosen by the columns of the first."""

import logging
from typing import Any, cast

from torch.utils.data import Dataset

from torchtune.data import Encoded, Example, Tokenizer
from torchtune.datasets._columns import columns_of
from torchtune.datasets._conversations import COLUMNS, ChatDataset
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._instruct import InstructDataset
from torchtune.datasets._row_dataset import OnError
from torchtune.datasets._source import OpenedSource, Source, open_source
from torchtune.datasets._tables import Row
from torchtune.datasets._text import TextCompletionDataset

_QUESTIONS = ("question", "prompt", "query", "instruction", "input", "problem", "user")
_ANSWERS = ("answer", "response", "completion", "output", "solution", "target", "assistant")
"""What columns of tasks and of their answers are often called, for suggestions."""

_logger = logging.getLogger(__name__)


def auto_dataset(  # noqa: PLR0913 -- what datasets of all layouts have in common.
    tokenizer: Tokenizer,
    source: Source,
    *,
    split: str = "train",
    load_options: LoadOptions | None = None,
    columns: dict[str, str] | None = None,
    max_seq_len: int | None = None,
    on_error: OnError = "raise",
    ignore_columns: list[str] | None = None,
) -> Dataset[Encoded[Example]]:
    """Open rows as the dataset that reads their layout, which the columns of the first row tell.

    Conversations (`messages`, `conversations`, or `prompt` and `completion`) are a `ChatDataset`, tasks with answers
    (`instruction`, `output`) an `InstructDataset`, and texts (`text`) a `TextCompletionDataset`. Tasks are written in
    Alpaca's template if the tokenizer has no chat template.

    Args:
        tokenizer: Encodes the rows; the recipe passes it.
        source: A file of rows (.json, .jsonl, .csv, .tsv, .txt, .parquet or .arrow), a folder or a pattern of them, or
            the name of a data set on the Hugging Face hub; `open_source` has the details.
        split: Which split, which range of its rows, or which of several: `validation`, `train[:1000]`.
        load_options: What else a data set on the hub needs, such as its name or `streaming: true`.
        columns: Names of the columns of tasks and answers, as in `InstructDataset`, which then reads the rows. Null:
            the first row tells the layout.
        max_seq_len: Longest example (tokens). Null: any length.
        on_error: What becomes of a row that cannot be used: "raise" an error, or "skip" it, counted.
        ignore_columns: Columns that are known not to be read, and are not reported.

    Raises:
        FileNotFoundError: There is no such file or data set.
        ConnectionError: The hub cannot be reached.
        ValueError: The rows have another layout, or cannot be used by the dataset of theirs.
    """
    table = open_source(source, split, load_options)
    row = table[0]
    rows = cast("Source", OpenedSource(table))
    options: dict[str, Any] = {
        "max_seq_len": max_seq_len,
        "on_error": on_error,
        "ignore_columns": ignore_columns,
    }
    if columns is not None:
        return InstructDataset(tokenizer, rows, columns=columns, template=_template(tokenizer), **options)
    if any(name in row for name in COLUMNS) or {"prompt", "completion"} <= row.keys():
        return ChatDataset(tokenizer, rows, **options)
    if {"instruction", "output"} <= row.keys():
        return InstructDataset(tokenizer, rows, template=_template(tokenizer), **options)
    if "text" in row:
        return TextCompletionDataset(tokenizer, rows, **options)
    raise ValueError(f"{table.place(0)}: {_unknown_layout(row)}")


def _template(tokenizer: Tokenizer) -> str:
    """Return the template of tasks."""
    if tokenizer.chat_template is not None:
        return "chat"
    _logger.warning("the tokenizer has no chat template, so rows are written in Alpaca's (template=alpaca)")
    return "alpaca"


def _unknown_layout(row: Row) -> str:
    """Say that the columns of a row are those of no layout, and how to name what they hold."""
    if {"chosen", "rejected"} <= row.keys():
        return (
            f"{columns_of(row)}: pairs of a chosen and a rejected answer are for preference tuning, which no recipe"
            " does; torchtune.datasets.PreferenceDataset reads them for a recipe of your own"
        )
    told = "'messages', 'conversations', 'prompt' and 'completion', 'instruction' and 'output', or 'text'"
    return f"{columns_of(row)}, and none of them tells what a row is ({told}); write {_dataset_for(row)}"


def _dataset_for(row: Row) -> str:
    """Return the overrides that most likely name what the columns of a row hold."""
    turns = [name for name, value in row.items() if isinstance(value, list)]
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if turns:
        return f"dataset=torchtune.datasets.ChatDataset dataset.column={turns[0]}"
    if len(texts) == 1:
        return f"dataset=torchtune.datasets.TextCompletionDataset dataset.column={texts[0]}"
    asked = next((name for name in texts if name in _QUESTIONS), "NAME")
    answer = next((name for name in texts if name in _ANSWERS), "NAME")
    columns = f"{{instruction: {asked}, output: {answer}}}"
    return f"'dataset.columns={columns}'"
