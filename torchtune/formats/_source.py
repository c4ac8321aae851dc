"""A model in whatever format it came, which becomes a Hugging Face folder."""

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from torchtune.files import atomic_folder, write_json
from torchtune.formats._quantised import check_unquantised_tensors
from torchtune.formats._tensor_files import TensorSource
from torchtune.formats.hf._config import hf_config
from torchtune.formats.hf._save import SHARD_BYTES, write_shards
from torchtune.formats.hf._weights import check_tensors, expected_shapes
from torchtune.models import check_vocabulary
from torchtune.modules import Decoder
from torchtune.tokenizers import SpecialIds, auto_tokenizer, has_tokenizer

Progress = Callable[[int, int], None]
"""Called after each tensor with the number done and the number of all."""


@frozen(kw_only=True)
class Checkpoint:
    """A whole model that was looked into, and of whose weights nothing was read."""

    path: Path
    """A file or a folder, for messages."""
    model: Decoder
    """What it is, on the meta device."""
    weights: TensorSource
    write_tokenizer: Callable[[Path], SpecialIds]
    """Write the tokenizer's files and generation_config.json into a folder, and return what ids the model knows of.

    Raises:
        FileNotFoundError: there is no tokenizer, and there has to be one.
        ValueError: it is damaged, or another model's.
    """
    config: Mapping[str, Any] | None = None
    """Its config.json, whose keys stay; None: it has none."""
    tokenizer: Path | None = None
    """Where the tokenizer comes from, for messages. None: from where the weights do."""
    dtype: torch.dtype | None = None
    """What it is written in where nobody says. None: each tensor's own."""


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
        checkpoint: Where from.
        folder: Written beside and renamed once complete.
        dtype: Of what is written. None: the checkpoint's.
        shard_bytes: Size of a file of weights, at most; the tensors of one are held at a time (bytes).
        progress: Called after each tensor.

    Raises:
        FileExistsError: the folder has something in it.
        FileNotFoundError: there is no tokenizer.
        OSError: there is no room for the folder.
        ValueError: the weights are not those of the model, are quantised, or do not fit the dtype; or the tokenizer is
            damaged, or another model's.
    """
    model = checkpoint.model
    shapes = expected_shapes(model)
    check_unquantised_tensors(checkpoint.path, checkpoint.weights, shapes.keys())
    check_tensors(shapes, checkpoint.weights, checkpoint.path)
    numbers = {name: math.prod(shape) for name, shape in shapes.items()}
    dtypes = {name: dtype or checkpoint.dtype or checkpoint.weights.dtypes[name] for name in shapes}
    n_done = 0

    def read(name: str) -> Tensor:
        nonlocal n_done
        tensor = _cast(checkpoint, name, dtypes[name])
        n_done += 1
        if progress is not None:
            progress(n_done, len(shapes))
        return tensor

    with atomic_folder(folder) as partial:
        model.to(_most_common(dtypes, numbers))
        _write_texts(checkpoint, partial)
        sizes = {name: numbers[name] * dtypes[name].itemsize for name in shapes}
        write_shards(partial, sizes, read, shard_bytes)


def _write_texts(checkpoint: Checkpoint, folder: Path) -> None:
    """Write config.json and the tokenizer, and see that the two go together before any weights are read."""
    ids = checkpoint.write_tokenizer(folder)
    config = hf_config(checkpoint.model, checkpoint.config)
    write_json(folder / "config.json", {**config, **ids})
    if not has_tokenizer(folder):
        return
    try:
        tokenizer = auto_tokenizer(str(folder))
        check_vocabulary(tokenizer, checkpoint.model)
    except (FileNotFoundError, ValueError) as error:
        where = str(checkpoint.tokenizer or checkpoint.path)
        raise ValueError(
            f"the tokenizer of {where} cannot be used: {str(error).replace(str(folder), where)}"
        ) from error
    write_json(folder / "config.json", {**config, **ids.completed(tokenizer)})


def _most_common(dtypes: Mapping[str, torch.dtype], numbers: Mapping[str, int]) -> torch.dtype:
    """Return the dtype of most numbers, which config.json says is that of the model."""
    totals = Counter[torch.dtype]()
    for name, dtype in dtypes.items():
        totals[dtype] += numbers[name]
    return totals.most_common(1)[0][0]


def _cast(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Tensor:
    """Read one tensor, in a dtype."""
    tensor = checkpoint.weights.read(name)
    cast = tensor.to(dtype)
    if dtype == torch.float16 and tensor.dtype != dtype and not cast.isfinite().all():
        raise ValueError(
            f"{checkpoint.weights.own_name(name)} of {checkpoint.path} has numbers that float16 cannot hold (above"
            f" {torch.finfo(dtype).max:,.0f}, or not finite); take bfloat16 or float32"
        )
    return cast
