"""SlimOrca: conversations of one question and GPT-4's answer."""

from attrs import define, field

from torchtune.datasets._conversations import ChatDataset, TrainOn
from torchtune.datasets._source import Source


@define(eq=False, repr=False, slots=False)
class SlimOrcaDataset(ChatDataset):
    """SlimOrca without doubled rows (https://huggingface.co/datasets/Open-Orca/SlimOrca-Dedup), as conversations.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or the tokenizer has no chat template or it does not end answers.
    """

    source: Source | None = None  # type: ignore[assignment]  # null until `__attrs_post_init__` alone
    """A copy of your own, of ShareGPT's format. Null: the data set on the hub."""
    system: str | None = None
    """A system's turn for conversations that have none."""
    train_on: TrainOn = "answers"
    """What is a target: every turn of the assistant's ("answers"), the "last" one, or "everything"."""
    column: str = field(default="conversations", init=False)
    tools_column: str = field(default="tools", init=False)

    def __attrs_post_init__(self) -> None:
        self.source = self.source or "Open-Orca/SlimOrca-Dedup"
        super().__attrs_post_init__()
