"""Plain text to go on with."""

from typing import ClassVar, Literal

from attrs import define, field

from torchtune.data import Example, Unlearnable, text_notes
from torchtune.datasets._columns import column as text_of
from torchtune.datasets._row_dataset import RowDataset, Truncate
from torchtune.datasets._source import Source
from torchtune.datasets._tables import Row


@define(eq=False, repr=False, slots=False)
class TextCompletionDataset(RowDataset[str, list[Example]]):
    """Texts, every token of which is learnt, from the first to the one that ends a text.

    A row gives a list of examples: one, unless its text is split.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or an argument has no meaning for this source.
    """

    is_plain_text: ClassVar[bool] = True

    source: Source
    """The rows: a local file (.txt: a text a line; .json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or a pattern
    of such files, the name of a data set on the Hugging Face hub, or a list of rows."""
    column: str = "text"
    """The column of the text."""
    add_eos: bool = True
    """End every text with the token that ends one."""
    truncate: Truncate | Literal["split"] = field(default="split", kw_only=True)  # type: ignore[assignment]  # done before `_fitted`
    """What becomes of a longer one: it is "split" into several, cut at its "right" or "left" end, or "drop" leaves it
    out."""

    def _parse(self, row: Row) -> str | Unlearnable:
        text = text_of(row, self.column, "text", "column")
        return text if text.strip() else Unlearnable("are empty")

    def _encode(self, parsed: str, /) -> list[Example] | Unlearnable:
        tokens = self.tokenizer.encode(parsed, add_eos=self.add_eos)
        if len(tokens) < 2:
            return Unlearnable("are a single token")
        notes = text_notes(self.tokenizer, parsed)
        n = self.max_seq_len
        if self.truncate == "split" and n is not None and len(tokens) > n:
            # A piece begins with the token that the one before ends with, so that each but the first is predicted once.
            pieces = [tokens[i : i + n] for i in range(0, len(tokens) - 1, n - 1)]
            first, *others = [Example(piece, list(piece)) for piece in pieces]
            return [first.with_notes(notes), *others]
        fitted = self._fitted(Example(tokens, list(tokens)).with_notes(notes))
        return fitted if isinstance(fitted, Unlearnable) else [fitted]
