"""Open a Hugging Face folder as a checkpoint."""

from pathlib import Path

import torch

from torchtune.files import read_json
from torchtune.formats._checkpoint import Checkpoint
from torchtune.formats.hf._config import read_hf_config
from torchtune.formats.hf._weights import hf_tensors
from torchtune.modules import Decoder
from torchtune.tokenizers import GENERATION_CONFIG, SpecialIds, copy_files, copy_tokenizer, has_tokenizer


def open_hf(folder: Path) -> Checkpoint:
    """Open a Hugging Face folder.

    Args:
        folder: Contains config.json, weights (safetensors or pickles), and optionally a tokenizer.

    Raises:
        FileNotFoundError: config.json or the weights are missing.
        ValueError: The model is not supported, or a file is damaged.
    """
    with torch.device("meta"):
        model = Decoder(read_hf_config(folder))
    weights = hf_tensors(model, folder)

    def write_tokenizer(target: Path) -> SpecialIds:
        if has_tokenizer(folder):
            copy_tokenizer(folder, target)
        copy_files(folder, target, [GENERATION_CONFIG])
        return SpecialIds.from_folder(folder)

    config = read_json(folder / "config.json")
    return Checkpoint(
        path=folder, model=model, weights=weights, write_tokenizer=write_tokenizer, config=config
    )
