"""Plain text to go on with."""

from typing import Literal

from torchtune.data import Example, Tokenizer, text_notes
from torchtune.datasets._columns import column as text_of
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._row_dataset import Nothing, OnError, RowDataset, Truncate
from torchtune.datasets._source import Source, open_source
from torchtune.datasets._tables import Row


class TextCompletionDataset(RowDataset[str, list[Example]]):
    """Texts, every token of which is learnt, from the first to the one that ends a text.

    A row gives a list of examples: one, unless its text is split.

    Args:
        tokenizer: Encodes the texts; the recipe passes it.
        source: The rows: a local file (.txt: a text a line; .json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or
            a pattern of such files, the name of a data set on the Hugging Face hub, or a list of rows.
        column: The column of the text.
        add_eos: End every text with the token that ends one.
        split: Which split of a folder, or of a data set on the hub.
        load_options: What else a data set on the hub needs: name, revision, data_dir, data_files,
            cache_dir (as `datasets.load_dataset` takes them). `streaming: true` reads it, or local Parquet files, as
            the run goes, with no copy on the disk; `rows` says how many rows of it make an epoch.
        max_seq_len: Longest example in tokens; null: any length.
        truncate: What becomes of a longer one: it is "split" into several, cut at its "right" or "left" end, or "drop"
            leaves it out.
        on_error: What becomes of a row that cannot be used: "raise" an error, or "skip" it, counted.
        ignore_columns: Columns that are known not to be read, and are not reported.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or an argument has no meaning for this source.
    """

    is_plain_text = True

    def __init__(  # noqa: PLR0913, PLR0917 - these are settings of a config, given by name.
        self,
        tokenizer: Tokenizer,
        source: Source,
        column: str = "text",
        add_eos: bool = True,
        split: str = "train",
        load_options: LoadOptions | None = None,
        max_seq_len: int | None = None,
        truncate: Truncate | Literal["split"] = "split",
        on_error: OnError = "raise",
        ignore_columns: list[str] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._column = column
        self._add_eos = add_eos
        self._split = truncate == "split"
        table = open_source(source, split, load_options)
        cut_at = "right" if truncate == "split" else truncate
        super().__init__(table, max_seq_len, cut_at, on_error, ignore_columns)

    def _parse(self, row: Row) -> str | Nothing:
        text = text_of(row, self._column, "text", "column")
        return text if text.strip() else Nothing("are empty")

    def _encode(self, parsed: str, /) -> list[Example] | Nothing:
        tokens = self._tokenizer.encode(parsed, add_eos=self._add_eos)
        if len(tokens) < 2:
            return Nothing("are a single token")
        n = self._max_seq_len
        if self._split and n is not None and len(tokens) > n:
            # A piece begins with the token that the one before ends with, so that each but the first is predicted once.
            pieces = [tokens[i : i + n] for i in range(0, len(tokens) - 1, n - 1)]
            first, *others = [Example(piece, list(piece)) for piece in pieces]
            return [first.with_notes(text_notes(self._tokenizer, parsed)), *others]
        whole = Example(tokens, list(tokens))
        fitted = self._fitted(whole.with_notes(text_notes(self._tokenizer, parsed)))
        return fitted if isinstance(fitted, Nothing) else [fitted]

    def _apart(self, encoded: list[Example]) -> list[Example]:
        return encoded

    def _joined(self, examples: list[Example]) -> list[Example]:
        return examples
