"""Checks for the tokenizer files that a run saves with the weights."""

from pathlib import Path

from torchtune.config import ConfigError, Mistake
from torchtune.modules import Decoder, has_adapters
from torchtune.tokenizers import tokenizer_folder
from torchtune.training._finetune_config import FinetuneConfig


def find_tokenizer_files(cfg: FinetuneConfig, model: Decoder) -> None:
    """Check that the tokenizer files that a run saves with the weights exist.

    Args:
        cfg: The config, with its `tokenizer_directory`.
        model: The model. With adapters, nothing is checked, because an adapter can be saved without a tokenizer.

    Raises:
        FileNotFoundError: The folder has no tokenizer files.
        ValueError: The path is a file, but not a tokenizer file.
    """
    if cfg.tokenizer_directory is not None and not has_adapters(model):
        tokenizer_folder(Path(cfg.tokenizer_directory))


def check_tokenizer_files(cfg: FinetuneConfig, model: Decoder) -> None:
    """Check, before training, that the tokenizer files can be saved at the end of the run.

    Raises:
        ConfigError: As for `find_tokenizer_files`.
    """
    try:
        find_tokenizer_files(cfg, model)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError([Mistake("run", str(error), path=("tokenizer_directory",))]) from error
