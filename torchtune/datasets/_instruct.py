"""Tasks and answers as conversations."""

from torchtune.data import Example, Message, Tokenizer, chat_example, check_chat
from torchtune.datasets._row_dataset import RowDataset
from torchtune.datasets._rows import AlpacaRow, load_rows


class InstructDataset(RowDataset):
    """Tasks and answers through the tokenizer's own chat template, for models that chat.

    The rows have an `instruction`, an `input` (which may be empty) and an `output`. The user's turn is
    the instruction and, two lines below, the input; the assistant's is the output. Rows with an empty
    output are left out, counted in `n_dropped` and logged.

    Args:
        tokenizer: Encodes the conversations by its chat template; the recipe passes it.
        source: The rows: a local .json file (a list of objects) or .jsonl file (an object a line), or
            the name of a data set on the Hugging Face hub.
        train_on_input: Train on the whole conversation, not on the answer and the end of its turn alone.
        split: Which split of a data set on the hub.
        load_options: What else a data set on the hub needs: name, revision, data_dir, data_files,
            cache_dir (as `datasets.load_dataset` takes them).
        system: The system's turn before every task. Null: the chat template's own, if it has one.
        max_seq_len: Longest example in tokens; a longer one is cut at its end, and left out where
            nothing to learn remains. Null: any length.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, the tokenizer has no chat template or it does not
            end answers, or an argument has no meaning for this source.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - these are settings of a config, given by name.
        self,
        tokenizer: Tokenizer,
        source: str,
        train_on_input: bool = False,
        split: str = "train",
        load_options: dict[str, str] | None = None,
        system: str | None = None,
        max_seq_len: int | None = None,
    ) -> None:
        check_chat(tokenizer)
        self._tokenizer = tokenizer
        self._train_on_input = train_on_input
        self._system = system
        super().__init__(load_rows(source, split, load_options), max_seq_len)

    def _example(self, row: AlpacaRow) -> Example:
        task = f"{row.instruction}\n\n{row.input}" if row.input else row.instruction
        messages = [Message(role="user", content=task), Message(role="assistant", content=row.output)]
        if self._system is not None:
            messages.insert(0, Message(role="system", content=self._system))
        return chat_example(self._tokenizer, messages, train_on_input=self._train_on_input)
