"""Build a decoder from the config.json of a Hugging Face folder."""

import os

from attrs import evolve

from torchtune.formats.hf._config import read_hf_config
from torchtune.modules import Decoder
from torchtune.runs import locate_model


def hf_decoder(path: str | os.PathLike[str], max_seq_len: int | None = None) -> Decoder:
    """Build the model that a Hugging Face folder describes, with random weights.

    Args:
        path: The folder; only its config.json is read. For the folder of an adapter or a run, the model that
            `locate_model` returns is built.
        max_seq_len: Maximum sequence length, in tokens. Null: as in config.json.

    Raises:
        FileNotFoundError: config.json or the base of an adapter is missing.
        ValueError: The model is not supported (the message names the field), or the run has not ended.
    """
    architecture = read_hf_config(locate_model(path).base)
    return Decoder(architecture if max_seq_len is None else evolve(architecture, max_seq_len=max_seq_len))
