"""The tokenizer's files, which a run copies to the weights that it writes."""

from pathlib import Path

from torchtune.config import ConfigError, Mistake
from torchtune.modules import Decoder, has_adapters
from torchtune.tokenizers import tokenizer_folder
from torchtune.training._finetune_config import FinetuneConfig


def check_tokenizer_files(cfg: FinetuneConfig, model: Decoder) -> None:
    """Check, before a run trains, that the tokenizer's files can be copied to the weights at its end.

    Args:
        cfg: Its `tokenizer_directory`.
        model: An adapter is written without a tokenizer.

    Raises:
        ConfigError: There are none in the folder.
    """
    folder = cfg.tokenizer_directory
    if folder is None or has_adapters(model):
        return
    try:
        tokenizer_folder(Path(folder))
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError([Mistake("run", str(error), path=("tokenizer_directory",))]) from error
