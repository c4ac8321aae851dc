"""Meta's own checkpoints of Llama 2, Code Llama and Llama 3 to 3.3 as where a model comes from."""

from pathlib import Path

import torch

from torchtune.formats._source import Checkpoint
from torchtune.formats.hf._weights import expected_shapes
from torchtune.formats.meta._files import EMBEDDINGS, HEAD, MetaFiles, has_meta_files
from torchtune.formats.meta._params import FILE, read_params
from torchtune.formats.meta._weights import meta_weights
from torchtune.modules import Decoder
from torchtune.tokenizers import SpecialIds, write_meta_tokenizer

_TOKENIZER = "tokenizer.model"


def is_meta(folder: Path) -> bool:
    """Tell whether a folder looks like one of Meta's, or like what is left of one."""
    return (folder / FILE).is_file() or has_meta_files(folder)


def open_meta(folder: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Look into a checkpoint of Meta's.

    Args:
        folder: Holds params.json and `consolidated.00.pth`, with further ones for a model that was cut into several.
        tokenizer: A tokenizer.model or its folder. None: the folder's own.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is damaged, does not go with the others, or is of a model that is not supported.
    """
    params = read_params(folder)
    files = MetaFiles(folder, params)
    if params.n_layers > len(files.shapes):
        raise ValueError(
            f"{folder / FILE} speaks of {params.n_layers} layers, the files beside it hold {len(files.shapes)} tensors"
        )
    vocab_size = params.vocab_size or files.shapes[EMBEDDINGS][0]
    tied = params.use_scaled_rope and files.is_tied()
    try:
        with torch.device("meta"):
            model = Decoder(params.architecture(vocab_size, tied_embeddings=tied))
    except (ValueError, ArithmeticError, RuntimeError) as error:  # the latter two: numbers beyond all models
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
            f"no {file.name} in {file.parent}: name the model's tokenizer.model (--tokenizer), which may lie in another"
            " folder of the download"
        )
    return file
