"""The tokenizer's files, which a run copies to the weights that it writes."""

from pathlib import Path

from torchtune.config import ConfigError, Mistake
from torchtune.modules import Decoder, has_adapters
from torchtune.tokenizers import tokenizer_folder
from torchtune.training._finetune_config import FinetuneConfig


def find_tokenizer_files(cfg: FinetuneConfig, model: Decoder) -> None:
    """Find the tokenizer's files that a run copies to its weights.

    Args:
        cfg: Its `tokenizer_directory`.
        model: One with adapters needs none: an adapter may be written without a tokenizer.

    Raises:
        FileNotFoundError: There are none in the folder.
        ValueError: The path is a file, and not one of a tokenizer's.
    """
    if cfg.tokenizer_directory is not None and not has_adapters(model):
        tokenizer_folder(Path(cfg.tokenizer_directory))


def check_tokenizer_files(cfg: FinetuneConfig, model: Decoder) -> None:
    """Check, before a run trains, that the tokenizer's files can be copied at its end.

    Raises:
        ConfigError: As for `find_tokenizer_files`.
    """
    try:
        find_tokenizer_files(cfg, model)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError([Mistake("run", str(error), path=("tokenizer_directory",))]) from error
