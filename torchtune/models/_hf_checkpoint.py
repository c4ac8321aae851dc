"""A Hugging Face folder as where a model comes from."""

from pathlib import Path
from typing import Any

import torch

from torchtune.models._checkpoint import Checkpoint
from torchtune.models._hf_config import read_hf_config
from torchtune.models._hf_folder import copy_tokenizer, has_tokenizer, special_ids_of
from torchtune.models._hf_weights import hf_tensors
from torchtune.modules import Decoder


def open_hf(folder: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Look into a Hugging Face folder.

    Args:
        folder: Holds config.json and weights in safetensors or pickles of tensors.
        tokenizer: A tokenizer's folder, or a file of it. None: the folder's own, if it has one.

    Raises:
        FileNotFoundError: the folder's config.json or weights are missing.
        ValueError: the folder's model is not supported, or a file is damaged.
    """
    with torch.device("meta"):
        model = Decoder(read_hf_config(folder))
    weights = hf_tensors(model, folder)
    source = folder if tokenizer is None else tokenizer.parent if tokenizer.is_file() else tokenizer

    def write_tokenizer(target: Path) -> dict[str, Any]:
        if tokenizer is not None or has_tokenizer(source):
            copy_tokenizer(source, target)
            return special_ids_of(source)
        return {}

    return Checkpoint(path=folder, model=model, weights=weights, write_tokenizer=write_tokenizer)
