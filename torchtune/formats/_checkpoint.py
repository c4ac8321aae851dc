"""A checkpoint of any format, opened to be written as a Hugging Face folder."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from torchtune.files import atomic_folder, write_json
from torchtune.formats._quantized import check_unquantized_tensors
from torchtune.formats._tensor_files import TensorSource
from torchtune.formats._tensor_writer import SHARD_BYTES, TensorStream, write_shards
from torchtune.formats.hf._config import hf_config, main_dtype
from torchtune.formats.hf._weights import check_tensors, expected_shapes
from torchtune.models import check_vocabulary
from torchtune.modules import Decoder
from torchtune.tokenizers import SpecialIds, auto_tokenizer, has_tokenizer

Progress = Callable[[int, int], None]
"""Called after each tensor with the number of written tensors and the total."""


@frozen(kw_only=True)
class Checkpoint:
    """An opened full model, whose weights have not been read yet."""

    path: Path
    """The file or folder of the checkpoint, for messages."""
    model: Decoder
    """The model, on the meta device."""
    weights: TensorSource
    write_tokenizer: Callable[[Path], SpecialIds]
    """Write the tokenizer's files and generation_config.json into a folder, and return the special ids of the model.

    Raises:
        FileNotFoundError: A required tokenizer is missing.
        ValueError: The tokenizer is damaged or belongs to a different model.
    """
    config: Mapping[str, Any] | None = None
    """The contents of its config.json, whose keys are kept; None if there is no config.json."""
    tokenizer: Path | None = None
    """Path of the tokenizer, for messages. If None, the same as `path`."""
    dtype: torch.dtype | None = None
    """The default dtype for writing. None: the dtype of each tensor."""


def write_checkpoint(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint as a Hugging Face folder, tensor by tensor.

    Args:
        checkpoint: The checkpoint.
        folder: The folder to write; it appears only once it is complete.
        dtype: The dtype to write. None: the default of the checkpoint.
        shard_bytes: Maximum size of a weight file (bytes).
        progress: Called after each tensor.

    Raises:
        FileExistsError: The folder exists and is not empty.
        FileNotFoundError: The tokenizer is missing.
        OSError: There is not enough disk space for the folder.
        ValueError: The weights do not match the model, are quantized, or exceed the range of the dtype; or the
            tokenizer is damaged or belongs to a different model.
    """
    model = checkpoint.model
    shapes = expected_shapes(model)
    check_unquantized_tensors(checkpoint.path, checkpoint.weights, shapes.keys())
    check_tensors(shapes, checkpoint.weights, checkpoint.path)
    element_counts = {name: math.prod(shape) for name, shape in shapes.items()}
    dtypes = {name: dtype or checkpoint.dtype or checkpoint.weights.dtypes[name] for name in shapes}
    n_done = 0

    def read(name: str, _: int) -> Iterator[Tensor]:
        nonlocal n_done
        yield _cast(checkpoint, name, dtypes[name])
        n_done += 1
        if progress is not None:
            progress(n_done, len(shapes))

    with atomic_folder(folder) as partial:
        dtype = main_dtype((dtypes[name], element_counts[name]) for name in shapes)
        _write_config(checkpoint, partial, dtype)
        write_shards(partial, TensorStream(shapes=shapes, dtypes=dtypes, parts=read), shard_bytes)


def _write_config(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """Write config.json and the tokenizer, and check that they match before any weights are read."""
    ids = checkpoint.write_tokenizer(folder)
    config = hf_config(checkpoint.model, checkpoint.config, dtype=dtype)
    write_json(folder / "config.json", {**config, **ids})
    if not has_tokenizer(folder):
        return
    try:
        tokenizer = auto_tokenizer(str(folder))
        check_vocabulary(tokenizer, checkpoint.model)
    except (FileNotFoundError, ValueError) as error:
        path = str(checkpoint.tokenizer or checkpoint.path)
        raise ValueError(
            f"the tokenizer of {path} cannot be used: {str(error).replace(str(folder), path)}"
        ) from error
    write_json(folder / "config.json", {**config, **ids.completed(tokenizer)})


def _cast(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Tensor:
    """Read one tensor and cast it to a dtype."""
    tensor = checkpoint.weights.read(name)
    cast = tensor.to(dtype)
    if dtype == torch.float16 and tensor.dtype != dtype and not cast.isfinite().all():
        raise ValueError(
            f"{checkpoint.weights.source_name(name)} of {checkpoint.path} has values that float16 cannot represent"
            f" (above {torch.finfo(dtype).max:,.0f}, or not finite); use bfloat16 or float32"
        )
    return cast
