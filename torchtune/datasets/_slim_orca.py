"""SlimOrca: conversations of one question and GPT-4's answer."""

from attrs import define, field

from torchtune.datasets._conversations import ChatDataset, TrainOn
from torchtune.datasets._source import Source


@define(eq=False, repr=False, slots=False)
class SlimOrcaDataset(ChatDataset):
    """The deduplicated SlimOrca dataset (https://huggingface.co/datasets/Open-Orca/SlimOrca-Dedup), as conversations.

    Raises:
        FileNotFoundError: The file or dataset does not exist.
        ConnectionError: The hub cannot be reached.
        ValueError: The rows are not in this format, or the tokenizer's chat template is missing or does not end the
            assistant's turns.
    """

    source: Source | None = None  # type: ignore[assignment]  # null only until `__attrs_post_init__`
    """Your own copy, in ShareGPT's format. Null: the dataset on the hub."""
    system: str | None = None
    """A system turn for conversations without one."""
    train_on: TrainOn = "answers"
    """The targets: all the assistant's turns ("answers"), the "last" one, or "everything"."""
    column: str = field(default="conversations", init=False)
    tools_column: str = field(default="tools", init=False)

    def __attrs_post_init__(self) -> None:
        self.source = self.source or "Open-Orca/SlimOrca-Dedup"
        super().__attrs_post_init__()
