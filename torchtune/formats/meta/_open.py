"""Open Meta's checkpoints of Llama 2, Code Llama and Llama 3 to 3.3."""

from pathlib import Path

import torch

from torchtune.formats._checkpoint import Checkpoint
from torchtune.formats.hf._weights import expected_shapes
from torchtune.formats.meta._files import EMBEDDINGS, HEAD, MetaFiles, has_meta_files
from torchtune.formats.meta._params import FILE, read_params
from torchtune.formats.meta._weights import meta_weights
from torchtune.modules import Decoder
from torchtune.tokenizers import SpecialIds, write_meta_tokenizer

_TOKENIZER = "tokenizer.model"


def is_meta(folder: Path) -> bool:
    """Return whether a folder is a checkpoint in Meta's format, possibly an incomplete one."""
    return (folder / FILE).is_file() or has_meta_files(folder)


def open_meta(folder: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Open a checkpoint in Meta's format.

    Args:
        folder: Contains params.json and `consolidated.00.pth`, with further files if the model is split.
        tokenizer: A tokenizer.model, or its folder. None: the tokenizer.model in `folder`.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged or does not match the other files, or the model is not supported.
    """
    params = read_params(folder)
    files = MetaFiles(folder, params)
    if params.n_layers > len(files.shapes):
        raise ValueError(
            f"{folder / FILE}: n_layers is {params.n_layers}, which does not match the {len(files.shapes)} tensors of"
            " the weight files"
        )
    vocab_size = params.vocab_size or files.shapes[EMBEDDINGS][0]
    tied = params.use_scaled_rope and files.is_tied()
    try:
        with torch.device("meta"):
            model = Decoder(params.architecture(vocab_size, tied_embeddings=tied))
    except (ValueError, ArithmeticError, RuntimeError) as error:  # the last two: sizes are too large
        raise ValueError(f"{folder / FILE}: {error}") from error
    weights = meta_weights(files, expected_shapes(model), {HEAD} if tied else ())

    def write_tokenizer(target: Path) -> SpecialIds:
        return write_meta_tokenizer(_find_tokenizer(folder if tokenizer is None else tokenizer), target)

    return Checkpoint(
        path=folder, model=model, weights=weights, write_tokenizer=write_tokenizer, tokenizer=tokenizer
    )


def _find_tokenizer(path: Path) -> Path:
    file = path / _TOKENIZER if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file.name} in {file.parent}; pass the model's tokenizer.model (--tokenizer), which may be in another"
            " folder of the download"
        )
    return file
