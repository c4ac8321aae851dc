"""A dataset for rows of any format, which is detected from the columns of the first row."""

import logging
from typing import Any, cast

from torch.utils.data import Dataset

from torchtune.data import Encoded, Example, Tokenizer
from torchtune.datasets._columns import columns_of
from torchtune.datasets._conversations import COLUMNS, ChatDataset
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._instruct import InstructDataset
from torchtune.datasets._row_dataset import OnError
from torchtune.datasets._source import OpenedSource, Source, open_data_source
from torchtune.datasets._tables import Row
from torchtune.datasets._text import TextCompletionDataset

_QUESTIONS = ("question", "prompt", "query", "instruction", "input", "problem", "user")
_ANSWERS = ("answer", "response", "completion", "output", "solution", "target", "assistant")
"""Common names of question and answer columns, used in suggestions."""

_logger = logging.getLogger(__name__)


def auto_dataset(  # noqa: PLR0913 -- the settings that all formats share.
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
    """Open rows with the dataset class for their format, which is detected from the columns of the first row.

    Conversations (`messages`, `conversations`, or `prompt` and `completion`) open as a `ChatDataset`, tasks with
    answers (`instruction`, `output`) as an `InstructDataset`, and plain text (`text`) as a `TextCompletionDataset`.
    Tasks use the Alpaca prompt template if the tokenizer has no chat template.

    Args:
        tokenizer: Encodes the rows; the recipe passes it.
        source: A data file (.json, .jsonl, .csv, .tsv, .txt, .parquet or .arrow), a folder or a pattern of data files,
            or the name of a dataset on the Hugging Face hub; see `open_data_source` for details.
        split: A split, a range of its rows, or several of these: `validation`, `train[:1000]`, `train+test`.
        load_options: Further options for a dataset on the hub, such as its `name` or `streaming: true`.
        columns: Names of the columns of tasks and answers, as in `InstructDataset`, which then reads the rows. Null:
            the format is detected from the first row.
        max_seq_len: Maximum length of an example (tokens). Null: no limit.
        on_error: How to handle an invalid row: "raise" an error, or "skip" and count it.
        ignore_columns: Columns that are intentionally unused and therefore not reported.

    Raises:
        FileNotFoundError: The file or dataset does not exist.
        ConnectionError: The hub cannot be reached.
        ValueError: The format is unknown, or the rows cannot be used by the dataset class for it.
    """
    table = open_data_source(source, split, load_options)
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
    raise ValueError(f"{table.location(0)}: {_unknown_format(row)}")


def _template(tokenizer: Tokenizer) -> str:
    """Return the template for tasks."""
    if tokenizer.chat_template is not None:
        return "chat"
    _logger.warning(
        "the tokenizer has no chat template, so rows use the Alpaca prompt template (template=alpaca)"
    )
    return "alpaca"


def _unknown_format(row: Row) -> str:
    """Return the message for a row whose columns match no format, with overrides that may fix it."""
    if {"chosen", "rejected"} <= row.keys():
        return (
            f"{columns_of(row)}: pairs of a chosen and a rejected answer are for preference tuning, which no recipe"
            " supports; use torchtune.datasets.PreferenceDataset in your own recipe"
        )
    formats = "'messages', 'conversations', 'prompt' and 'completion', 'instruction' and 'output', or 'text'"
    return f"unknown row format: {columns_of(row)}; expected {formats}; set {_dataset_for(row)}"


def _dataset_for(row: Row) -> str:
    """Return overrides for a row of unknown format, guessed from its columns."""
    turns = [name for name, value in row.items() if isinstance(value, list)]
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if turns:
        return f"dataset=torchtune.datasets.ChatDataset dataset.column={turns[0]}"
    if len(texts) == 1:
        return f"dataset=torchtune.datasets.TextCompletionDataset dataset.column={texts[0]}"
    question = next((name for name in texts if name in _QUESTIONS), "NAME")
    answer = next((name for name in texts if name in _ANSWERS), "NAME")
    columns = f"{{instruction: {question}, output: {answer}}}"
    return f"'dataset.columns={columns}'"
