"""Stanford Alpaca, and data of the same columns, as plain text."""

from attrs import define, field

from torchtune.datasets._instruct import InstructDataset
from torchtune.datasets._source import Source


@define(eq=False, repr=False, slots=False)
class AlpacaDataset(InstructDataset):
    """Tasks and answers in the prompt of Stanford Alpaca, for models without a chat template.

    The rows have an `instruction`, an `input` (which may be empty or missing) and an `output`. Those with an empty
    output are left out and counted.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or an argument has no meaning beside another.
    """

    train_on_input: bool = True
    """Train on the prompt as well, not on the answer alone."""
    use_clean: bool = False
    """Take the cleaned rows, yahma/alpaca-cleaned, instead of tatsu-lab/alpaca."""
    source: Source | None = None  # type: ignore[assignment]  # null until `__attrs_post_init__` alone
    """Rows of your own, as `InstructDataset` takes them. Null: the Alpaca data set."""
    columns: dict[str, str] | None = None
    """The columns' names there, where they are others."""
    template: str = field(default="alpaca", init=False)
    system: None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self.use_clean and self.source is not None:
            raise ValueError(
                f"use_clean: chooses an Alpaca data set, without effect on the source {self.source!r}"
            )
        if self.source is None and not self.use_clean and self.ignore_columns is None:
            self.ignore_columns = ["text"]  # the prompt and its answer once more
        self.source = self.source or ("yahma/alpaca-cleaned" if self.use_clean else "tatsu-lab/alpaca")
        super().__attrs_post_init__()
