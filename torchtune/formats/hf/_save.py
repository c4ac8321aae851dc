"""Save a model as a Hugging Face folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from torchtune.files import SINGLE_RANK, Ranks, atomic_folder, read_json, write_json
from torchtune.formats._tensor_writer import SHARD_BYTES, TensorStream, write_shards
from torchtune.formats.hf._config import hf_config, main_dtype
from torchtune.formats.hf._weights import expected_shapes, hf_groups, is_transposed
from torchtune.modules import Decoder, gather_full, has_adapters
from torchtune.tokenizers import GENERATION_CONFIG, SpecialIds, auto_tokenizer, copy_files, copy_tokenizer


def save_hf_folder(
    model: Decoder,
    folder: str | os.PathLike[str],
    *,
    tokenizer_directory: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    ranks: Ranks = SINGLE_RANK,
) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM.from_pretrained` loads.

    Args:
        model: A model without adapters (`merge_lora` merges them); its parameters may be sharded across the ranks.
        folder: The folder to write; it appears only once it is complete.
        tokenizer_directory: Folder whose tokenizer files are copied; its generation_config.json is copied if `base` has
            none.
        base: Folder of the model that this one was trained from: the keys of its config.json are kept (`hf_config`),
            and so is its generation_config.json, with the special ids of the tokenizer. None: there is no such folder.
        dtype: The dtype to write. None: the dtype of each parameter.
        overwrite: Replace an existing folder.
        shard_bytes: Maximum size of a weight file (bytes).
        ranks: The ranks that write the folder, all of which must call this. The weight files are distributed over them,
            and each tensor is gathered on the rank that writes it.

    Raises:
        FileExistsError: The folder is not empty and `overwrite` is False.
        FileNotFoundError: `tokenizer_directory` contains no tokenizer, or `base` contains no config.json.
        ValueError: The model has LoRA adapters, or the tokenizer files are damaged.
    """
    if has_adapters(model):
        raise ValueError(
            "the model has LoRA adapters; merge them first (merge_lora), or save only the adapters"
            " (save_peft_adapter)"
        )
    weights = model.state_dict()
    dtypes = {name: dtype or tensor.dtype for name, tensor in weights.items()}
    with atomic_folder(folder, overwrite=overwrite, ranks=ranks) as partial:
        if ranks.rank == 0:
            main = main_dtype((dtypes[name], tensor.numel()) for name, tensor in weights.items())
            _write_config(model, partial, main, tokenizer_directory, base)
        groups = hf_groups(model.architecture, weights)
        tensors = TensorStream(
            shapes=expected_shapes(model),
            dtypes={name: dtypes[names[0]] for name, names in groups.items()},
            parts=lambda name, rank: _gather(model, weights, name, groups[name], dtype, rank),
        )
        write_shards(partial, tensors, shard_bytes, ranks)


def _gather(
    model: Decoder,
    weights: Mapping[str, Tensor],
    name: str,
    parts: Sequence[str],
    dtype: torch.dtype | None,
    rank: int,
) -> Iterator[Tensor | None]:
    """Gather a tensor of the checkpoint on one rank, as in `TensorStream.parts`.

    Args:
        model: The model.
        weights: Its weights, which may be sharded.
        name: The name of the tensor in the checkpoint.
        parts: The names of the weights that the tensor fuses.
        dtype: The dtype to cast to; None: no cast.
        rank: The rank that receives the tensor.
    """
    if not is_transposed(model.architecture, name):
        for part in parts:
            yield gather_full(weights[part], rank, dtype)
        return
    gathered = [gather_full(weights[part], rank, dtype) for part in parts]
    tensors = [tensor for tensor in gathered if tensor is not None]
    yield torch.cat(tensors).T if tensors else None


def _write_config(
    model: Decoder,
    folder: Path,
    dtype: torch.dtype,
    tokenizer_directory: str | os.PathLike[str] | None,
    base: str | os.PathLike[str] | None,
) -> None:
    """Write config.json, generation_config.json and the tokenizer.

    Args:
        model: The model.
        folder: The folder to write to.
        dtype: The dtype for config.json.
        tokenizer_directory: As in `save_hf_folder`.
        base: As in `save_hf_folder`.
    """
    special_ids = SpecialIds()
    if tokenizer_directory is not None:
        directory = Path(tokenizer_directory)
        copy_tokenizer(directory, folder)
        special_ids = SpecialIds.from_folder(directory)
        if not special_ids.eos_ids():
            special_ids = special_ids.completed(auto_tokenizer(str(directory)))
    sources = [Path(source) for source in (base, tokenizer_directory) if source is not None]
    _write_generation_config(folder, sources, special_ids)
    config = None if base is None else read_json(Path(base) / "config.json")
    write_json(folder / "config.json", {**hf_config(model, config, dtype=dtype), **special_ids})


def _write_generation_config(folder: Path, sources: Sequence[Path], ids: SpecialIds) -> None:
    """Write the generation_config.json of the first source that has one, with the special ids of the tokenizer.

    Args:
        folder: The folder to write to.
        sources: Folders; the last one contains the tokenizer.
        ids: The special ids of the tokenizer.
    """
    path = next(
        (source / GENERATION_CONFIG for source in sources if (source / GENERATION_CONFIG).is_file()), None
    )
    if path is not None and path.parent == sources[-1]:
        copy_files(path.parent, folder, [GENERATION_CONFIG])
    elif path is not None:
        write_json(folder / GENERATION_CONFIG, {**read_json(path), **ids.non_null()})
