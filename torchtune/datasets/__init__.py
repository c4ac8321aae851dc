"""Datasets that yield `torchtune.data.Example`, from local files and the Hugging Face hub."""

from torchtune.datasets._alpaca import AlpacaDataset
from torchtune.datasets._auto import auto_dataset
from torchtune.datasets._concat import ConcatDataset
from torchtune.datasets._conversations import (
    ChatDataset,
    read_conversation,
    read_row_tools,
    turns_of,
    with_system,
)
from torchtune.datasets._instruct import InstructDataset, read_task
from torchtune.datasets._preference import PreferenceDataset
from torchtune.datasets._slim_orca import SlimOrcaDataset
from torchtune.datasets._source import open_data_source
from torchtune.datasets._tables import RowError
from torchtune.datasets._text import TextCompletionDataset

__all__ = [
    "AlpacaDataset",
    "ChatDataset",
    "ConcatDataset",
    "InstructDataset",
    "PreferenceDataset",
    "RowError",
    "SlimOrcaDataset",
    "TextCompletionDataset",
    "auto_dataset",
    "open_data_source",
    "read_conversation",
    "read_row_tools",
    "read_task",
    "turns_of",
    "with_system",
]
