"""A model as the config.json of a Hugging Face folder describes it."""

import os

from attrs import evolve

from torchtune.formats.hf._config import read_hf_config
from torchtune.modules import Decoder
from torchtune.runs import locate_model


def hf_decoder(path: str | os.PathLike[str], max_seq_len: int | None = None) -> Decoder:
    """Build the model that a Hugging Face folder describes, with random weights.

    Args:
        path: The folder; its config.json is read, nothing else. An adapter's folder, or a run's, stands for the model
            that `locate_model` finds by it.
        max_seq_len: Longest sequence, in tokens. Null: the model's own.

    Raises:
        FileNotFoundError: there is no config.json, or no base of an adapter.
        ValueError: it describes a model that our decoder cannot be; the message has the field. Or a run has not ended.
    """
    architecture = read_hf_config(locate_model(path).base)
    return Decoder(architecture if max_seq_len is None else evolve(architecture, max_seq_len=max_seq_len))
