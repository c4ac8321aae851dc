"""SlimOrca: conversations of one question and GPT-4's answer."""

from typing import Literal

from torchtune.data import Tokenizer
from torchtune.datasets._conversations import ChatDataset
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._row_dataset import OnError, Truncate
from torchtune.datasets._source import Source


class SlimOrcaDataset(ChatDataset):
    """SlimOrca without doubled rows (https://huggingface.co/datasets/Open-Orca/SlimOrca-Dedup), as conversations.

    Args:
        tokenizer: Its chat template writes the conversations out; the recipe passes it.
        source: A copy of your own, of ShareGPT's format. Null: the data set on the hub.
        system: A system's turn for conversations that have none.
        train_on: What is a target: every turn of the assistant's ("answers"), the "last" one, or "everything".
        split: Which split of a folder, or of a data set on the hub.
        load_options: What else a data set on the hub needs: name, revision, data_dir, data_files,
            cache_dir (as `datasets.load_dataset` takes them). `streaming: true` reads it, or local Parquet files, as
            the run goes, with no copy on the disk; `rows` says how many rows of it make an epoch.
        max_seq_len: Longest example in tokens; null: any length.
        truncate: Where a longer one is cut: at its "right" or "left" end; "drop" leaves it out, as is one of which no
            target remains.
        on_error: What becomes of a row that cannot be used: "raise" an error, or "skip" it, counted.
        ignore_columns: Columns that are known not to be read, and are not reported.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or the tokenizer has no chat template or it does not end answers.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - these are settings of a config, given by name.
        self,
        tokenizer: Tokenizer,
        source: Source | None = None,
        system: str | None = None,
        train_on: Literal["answers", "last", "everything"] = "answers",
        split: str = "train",
        load_options: LoadOptions | None = None,
        max_seq_len: int | None = None,
        truncate: Truncate = "right",
        on_error: OnError = "raise",
        ignore_columns: list[str] | None = None,
    ) -> None:
        super().__init__(
            tokenizer,
            source or "Open-Orca/SlimOrca-Dedup",
            column="conversations",
            system=system,
            train_on=train_on,
            split=split,
            load_options=load_options,
            max_seq_len=max_seq_len,
            truncate=truncate,
            on_error=on_error,
            ignore_columns=ignore_columns,
        )
