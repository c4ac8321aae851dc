"""What of a config's folders a run would reject: adapters and quantised models, missing and misshapen weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchtune.config import Mistake, model
from torchtune.config.model import as_path


class Mistakes:
    """Collects mistakes that exceptions report, each with the field that it belongs to.

    Args:
        layers: Know where a field was written.
    """

    def __init__(self, layers: "model.Layers") -> None:
        self._layers = layers
        self.found: list[Mistake] = []

    @contextmanager
    def of(self, field: str) -> Iterator[None]:
        """Turn an exception for bad input into a mistake of a field."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.add(field, error)

    def add(self, field: str, error: BaseException) -> None:
        """Add what an exception reports; one that knows where its component was written says it once."""
        path = as_path(field)
        location = getattr(error, "location", None)
        if location is not None:
            path = getattr(error, "path", ()) or path
        message = getattr(error, "message", None) or str(error)
        self.found.append(
            Mistake("component", message, path=path, location=location or self._layers.last_origin(path))
        )


def check_weights(cfg: Any, decoder: Any, mistakes: Mistakes) -> None:
    """Compare the folders of a config with its model, as far as they exist; weights are not read.

    Args:
        cfg: A config with a `model_directory`.
        decoder: Its model on the meta device, with adapters.
        mistakes: Collects what is wrong.
    """
    from torchtune.formats import read_hf_weights, read_peft_adapter
    from torchtune.runs import locate_model
    from torchtune.training import FinetuneConfig

    folder, adapter = cfg.model_directory, getattr(cfg, "adapter_directory", None)
    if folder is None or not Path(folder).is_dir():
        return
    with mistakes.of("model_directory"):
        if isinstance(cfg, FinetuneConfig):
            read_hf_weights(decoder, folder)
            return
        folders = locate_model(folder, adapter if adapter and Path(adapter).is_dir() else None)
        read_hf_weights(decoder, folders.base)
        if folders.adapter is not None:
            with mistakes.of("adapter_directory" if adapter else "model_directory"):
                read_peft_adapter(decoder, folders.adapter)


def check_tokenizer(cfg: Any, tokenizer: Any, decoder: Any, mistakes: Mistakes) -> None:
    """Check that a tokenizer belongs to a model, that it encodes prompts, and that its files can be copied.

    Args:
        cfg: The config.
        tokenizer: Built from it.
        decoder: Its model; None: there is none.
        mistakes: Collects what is wrong.
    """
    from torchtune.models import check_vocabulary
    from torchtune.modules import has_adapters
    from torchtune.tokenizers import tokenizer_folder
    from torchtune.training import FinetuneConfig

    if decoder is None:
        return
    with mistakes.of("tokenizer"):
        check_vocabulary(tokenizer, decoder)
    folder = getattr(cfg, "tokenizer_directory", None)
    section = cfg.validation if isinstance(cfg, FinetuneConfig) else None
    if section is not None:
        with mistakes.of("validation.prompts"):
            section.encode_prompts(tokenizer, decoder)
    copies = isinstance(cfg, FinetuneConfig) and not has_adapters(decoder)
    if copies and folder is not None and Path(folder).is_dir():
        with mistakes.of("tokenizer_directory"):
            tokenizer_folder(Path(folder))
