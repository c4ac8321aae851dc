"""Open a GGUF file as a checkpoint."""

from pathlib import Path

import torch

from torchtune.formats._checkpoint import Checkpoint
from torchtune.formats.gguf._config import gguf_config
from torchtune.formats.gguf._file import read_gguf
from torchtune.formats.gguf._weights import gguf_weights
from torchtune.formats.hf._config import architecture_from_hf
from torchtune.formats.hf._weights import expected_shapes
from torchtune.modules import Decoder
from torchtune.tokenizers import gguf_tokenizer_writer


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or truncated, or its model or tokenizer is not supported.
    """
    file = read_gguf(path)
    try:
        with torch.device("meta"):
            model = Decoder(architecture_from_hf(gguf_config(file)))
        write_tokenizer = gguf_tokenizer_writer(file.metadata)
        weights = gguf_weights(file, model.architecture, expected_shapes(model))
    except KeyError as error:
        raise ValueError(f"{file.path} has no metadata key {error.args[0]!r}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{file.path} cannot be converted: {error}") from error

    return Checkpoint(
        path=file.path, model=model, weights=weights, write_tokenizer=write_tokenizer, dtype=torch.bfloat16
    )
