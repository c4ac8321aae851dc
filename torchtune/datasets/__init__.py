"""Datasets that yield `torchtune.data.Example`, from local files and the Hugging Face hub."""

from torchtune.datasets._alpaca import AlpacaDataset
from torchtune.datasets._instruct import InstructDataset

__all__ = ["AlpacaDataset", "InstructDataset"]
