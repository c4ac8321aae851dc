"""Stanford Alpaca, and data of the same columns, as plain text."""

from torchtune.data import Tokenizer
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._instruct import InstructDataset
from torchtune.datasets._row_dataset import OnError, Truncate
from torchtune.datasets._source import Source


class AlpacaDataset(InstructDataset):
    """Tasks and answers in the prompt of Stanford Alpaca, for models without a chat template.

    The rows have an `instruction`, an `input` (which may be empty or missing) and an `output`. Those with an empty
    output are left out and counted.

    Args:
        tokenizer: Encodes prompts and answers; the recipe passes it.
        train_on_input: Train on the prompt as well, not on the answer alone.
        use_clean: Take the cleaned rows, yahma/alpaca-cleaned, instead of tatsu-lab/alpaca.
        source: Rows of your own, as `InstructDataset` takes them. Null: the Alpaca data set.
        split: Which split of a folder, or of a data set on the hub.
        load_options: What else a data set on the hub needs: name, revision, data_dir, data_files,
            cache_dir (as `datasets.load_dataset` takes them). `streaming: true` reads it, or local Parquet files, as
            the run goes, with no copy on the disk; `rows` says how many rows of it make an epoch.
        columns: The columns' names there, where they are others.
        max_seq_len: Longest example in tokens; null: any length.
        truncate: Where a longer one is cut: at its "right" or "left" end; "drop" leaves it out, as is one of which no
            target remains.
        on_error: What becomes of a row that cannot be used: "raise" an error, or "skip" it, counted.
        ignore_columns: Columns that are known not to be read, and are not reported.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or an argument has no meaning beside another.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - these are settings of a config, given by name.
        self,
        tokenizer: Tokenizer,
        train_on_input: bool = True,
        use_clean: bool = False,
        source: Source | None = None,
        split: str = "train",
        load_options: LoadOptions | None = None,
        columns: dict[str, str] | None = None,
        max_seq_len: int | None = None,
        truncate: Truncate = "right",
        on_error: OnError = "raise",
        ignore_columns: list[str] | None = None,
    ) -> None:
        if use_clean and source is not None:
            raise ValueError(
                f"use_clean: chooses an Alpaca data set, without effect on the source {source!r}"
            )
        original = "yahma/alpaca-cleaned" if use_clean else "tatsu-lab/alpaca"
        if source is None and not use_clean and ignore_columns is None:
            ignore_columns = ["text"]  # the prompt and its answer once more
        super().__init__(
            tokenizer,
            source or original,
            train_on_input=train_on_input,
            columns=columns,
            template="alpaca",
            split=split,
            load_options=load_options,
            max_seq_len=max_seq_len,
            truncate=truncate,
            on_error=on_error,
            ignore_columns=ignore_columns,
        )
