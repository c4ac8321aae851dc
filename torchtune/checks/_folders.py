"""Check a config's model, adapter and tokenizer folders, without reading weights."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from torchtune.checks._field_errors import FieldErrors, errors_of
from torchtune.data import Tokenizer
from torchtune.formats import read_hf_weights, read_peft_adapter
from torchtune.models import check_vocabulary
from torchtune.modules import Decoder
from torchtune.runs import locate_model
from torchtune.training import FinetuneConfig, find_tokenizer_files


def weight_errors(cfg: Any, model: Decoder) -> FieldErrors:
    """Check that the folders of a config match its model; missing folders are ignored.

    Args:
        cfg: A config with a `model_directory`.
        model: The model on the meta device, with adapters.
    """
    folder, adapter = cfg.model_directory, getattr(cfg, "adapter_directory", None)
    if folder is None or not Path(folder).is_dir():
        return
    if isinstance(cfg, FinetuneConfig):
        yield from errors_of("model_directory", read_hf_weights, model, folder)
        return
    field = "model_directory" if adapter is None else "adapter_directory"
    if adapter is not None and not Path(adapter).is_dir():
        adapter = None
    yield from errors_of(field, locate_model, folder, adapter)
    with suppress(OSError, ValueError):
        folders = locate_model(folder, adapter)
        yield from errors_of("model_directory", read_hf_weights, model, folders.base)
        if folders.adapter is not None:
            yield from errors_of(field, read_peft_adapter, model, folders.adapter)


def tokenizer_errors(cfg: Any, tokenizer: Tokenizer, model: Decoder) -> FieldErrors:
    """Check that a tokenizer matches a model and can encode the prompts, and that its files can be copied.

    Args:
        cfg: The config.
        tokenizer: The config's tokenizer.
        model: The model on the meta device, with adapters.
    """
    yield from errors_of("tokenizer", check_vocabulary, tokenizer, model)
    if not isinstance(cfg, FinetuneConfig):
        return
    if cfg.validation is not None:
        yield from errors_of("validation.prompts", cfg.validation.encode_prompts, tokenizer, model)
    if cfg.tokenizer_directory is not None and Path(cfg.tokenizer_directory).is_dir():
        yield from errors_of("tokenizer_directory", find_tokenizer_files, cfg, model)
