"""Plain text, without prompts."""

from typing import ClassVar, Literal

from attrs import define, field

from torchtune.data import Example, SkipReason, text_notes
from torchtune.datasets._columns import column as text_of
from torchtune.datasets._row_dataset import RowDataset, Truncate
from torchtune.datasets._source import Source
from torchtune.datasets._tables import Row


@define(eq=False, repr=False, slots=False)
class TextCompletionDataset(RowDataset[str, list[Example]]):
    """Plain text in which every token is a target, including the end-of-sequence token.

    A row yields a list of examples, with one element unless its text is split.

    Raises:
        FileNotFoundError: The file or dataset does not exist.
        ConnectionError: The hub cannot be reached.
        ValueError: The rows are not in this format, or an argument has no effect on this source.
    """

    is_plain_text: ClassVar[bool] = True

    source: Source
    """The rows: a local file (.txt: one text per line; .json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or a
    pattern of such files, the name of a dataset on the Hugging Face hub, or a list of rows."""
    column: str = "text"
    """The column that contains the text."""
    add_eos: bool = True
    """Append the end-of-sequence token to every text."""
    truncate: Truncate | Literal["split"] = field(default="split", kw_only=True)  # type: ignore[assignment]  # `_encode` handles "split"
    """How to handle text that exceeds `max_seq_len`: "split" it into several examples, truncate it on the "right" or
    "left", or "drop" it."""

    def _parse(self, row: Row) -> str | SkipReason:
        text = text_of(row, self.column, "text", "column")
        return text if text.strip() else SkipReason("are empty")

    def _encode(self, parsed: str, /) -> list[Example] | SkipReason:
        tokens = self.tokenizer.encode(parsed, add_eos=self.add_eos)
        if len(tokens) < 2:
            return SkipReason("are a single token")
        notes = text_notes(self.tokenizer, parsed)
        n = self.max_seq_len
        if self.truncate == "split" and n is not None and len(tokens) > n:
            # Each piece begins with the last token of the previous piece, so that all tokens but the first are
            # predicted.
            pieces = [tokens[i : i + n] for i in range(0, len(tokens) - 1, n - 1)]
            first, *others = [Example(piece, list(piece)) for piece in pieces]
            return [first.with_notes(notes), *others]
        example = self._truncate(Example(tokens, list(tokens)).with_notes(notes))
        return example if isinstance(example, SkipReason) else [example]
