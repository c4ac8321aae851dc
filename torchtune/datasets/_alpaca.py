"""Stanford Alpaca, and data of the same columns, as plain text."""

from torchtune.data import Example, Tokenizer, alpaca_prompt, plain_example
from torchtune.datasets._row_dataset import RowDataset
from torchtune.datasets._rows import AlpacaRow, load_rows


class AlpacaDataset(RowDataset):
    """Tasks and answers in the prompt of Stanford Alpaca, for models without a chat template.

    The rows have an `instruction`, an `input` (which may be empty) and an `output`. Those with an empty
    output are left out, counted in `n_dropped` and logged.

    Args:
        tokenizer: Encodes prompts and answers; the recipe passes it.
        train_on_input: Train on the prompt as well, not on the answer alone.
        use_clean: Take the cleaned rows, yahma/alpaca-cleaned, instead of tatsu-lab/alpaca.
        source: Rows of your own: a local .json file (a list of objects) or .jsonl file (an object a
            line), or the name of a data set on the Hugging Face hub. Null: the Alpaca data set.
        split: Which split of a data set on the hub.
        load_options: What else a data set on the hub needs: name, revision, data_dir, data_files,
            cache_dir (as `datasets.load_dataset` takes them).
        max_seq_len: Longest example in tokens; a longer one is cut at its end, and left out where
            nothing to learn remains. Null: any length.

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
        source: str | None = None,
        split: str = "train",
        load_options: dict[str, str] | None = None,
        max_seq_len: int | None = None,
    ) -> None:
        if use_clean and source is not None:
            raise ValueError(
                f"use_clean: chooses an Alpaca data set, without effect on the source {source!r}"
            )
        self._tokenizer = tokenizer
        self._train_on_input = train_on_input
        original = "yahma/alpaca-cleaned" if use_clean else "tatsu-lab/alpaca"
        super().__init__(load_rows(source or original, split, load_options), max_seq_len)

    def _example(self, row: AlpacaRow) -> Example:
        prompt = alpaca_prompt(row.instruction, row.input)
        return plain_example(self._tokenizer, prompt, row.output, train_on_input=self._train_on_input)
