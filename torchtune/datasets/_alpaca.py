"""Stanford Alpaca, and datasets with the same columns, in the Alpaca prompt template (plain text)."""

from attrs import define, field

from torchtune.datasets._instruct import InstructDataset
from torchtune.datasets._source import Source


@define(eq=False, repr=False, slots=False)
class AlpacaDataset(InstructDataset):
    """Tasks and answers in the prompt of Stanford Alpaca, for models without a chat template.

    Rows have an `instruction`, an `input` (which may be empty or missing) and an `output`. Rows with an empty output
    are skipped, and their number is reported.

    Raises:
        FileNotFoundError: The file or dataset does not exist.
        ConnectionError: The hub cannot be reached.
        ValueError: The rows are not in this format, or two arguments conflict.
    """

    train_on_input: bool = True
    """Train on the prompt as well, not only on the answer."""
    use_clean: bool = False
    """Use the cleaned dataset, yahma/alpaca-cleaned, instead of tatsu-lab/alpaca."""
    source: Source | None = None  # type: ignore[assignment]  # null only until `__attrs_post_init__`
    """Your own rows, in any form that `InstructDataset` accepts. Null: the Alpaca dataset."""
    columns: dict[str, str] | None = None
    """The source's column names, if they differ from the defaults: `{instruction: question, output: answer}`."""
    template: str = field(default="alpaca", init=False)
    system: None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self.use_clean and self.source is not None:
            raise ValueError(
                f"use_clean: selects an Alpaca dataset, so it has no effect with source={self.source!r}; remove it"
            )
        if self.source is None and not self.use_clean and self.ignore_columns is None:
            self.ignore_columns = ["text"]  # it repeats the prompt and the answer
        self.source = self.source or ("yahma/alpaca-cleaned" if self.use_clean else "tatsu-lab/alpaca")
        super().__attrs_post_init__()
