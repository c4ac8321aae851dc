"""Save a model as a Hugging Face folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from torchtune.files import atomic_folder, read_json, write_json
from torchtune.formats.hf._config import hf_config, main_dtype
from torchtune.formats.hf._weights import hf_groups, hf_tensor
from torchtune.modules import Decoder, has_adapters
from torchtune.tokenizers import GENERATION_CONFIG, SpecialIds, auto_tokenizer, copy_files, copy_tokenizer

SHARD_BYTES = 5 * 10**9
"""Maximum size of a weight file (bytes): the limit that transformers uses, since hubs limit the size of files."""


def save_hf_folder(
    model: Decoder,
    folder: str | os.PathLike[str],
    *,
    tokenizer_directory: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    state: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM.from_pretrained` loads.

    Args:
        model: A model without adapters (`merge_lora` merges them).
        folder: The folder to write; it appears only once it is complete.
        tokenizer_directory: Folder whose tokenizer files are copied; its generation_config.json is copied if `base` has
            none.
        base: Folder of the model that this one was trained from: the keys of its config.json are kept (`hf_config`),
            and so is its generation_config.json, with the special ids of the tokenizer. None: there is no such folder.
        state: Tensors to write instead of `model.state_dict()`, such as weights gathered from shards.
        overwrite: Replace an existing folder.
        shard_bytes: Maximum size of a weight file (bytes).

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
    with atomic_folder(folder, overwrite=overwrite) as partial:
        special_ids = SpecialIds()
        if tokenizer_directory is not None:
            directory = Path(tokenizer_directory)
            copy_tokenizer(directory, partial)
            special_ids = SpecialIds.from_folder(directory)
            if not special_ids.eos_ids():
                special_ids = special_ids.completed(auto_tokenizer(str(directory)))
        folders = [Path(source) for source in (base, tokenizer_directory) if source is not None]
        _write_generation_config(partial, folders, special_ids)
        config = None if base is None else read_json(Path(base) / "config.json")
        weights = model.state_dict() if state is None else state
        dtype = main_dtype((tensor.dtype, tensor.numel()) for tensor in weights.values())
        write_json(partial / "config.json", {**hf_config(model, config, dtype=dtype), **special_ids})
        a = model.architecture
        groups = hf_groups(a, weights)
        sizes = {name: sum(weights[part].nbytes for part in parts) for name, parts in groups.items()}
        write_shards(partial, sizes, lambda name: hf_tensor(a, weights, name, groups[name]), shard_bytes)


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


def write_shards(
    folder: Path, sizes: Mapping[str, int], read: Callable[[str], Tensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write weights into one file, or several files of at most `shard_bytes` with an index, named as in transformers.

    Args:
        folder: The folder to write to.
        sizes: The size of every tensor by name (bytes). A tensor larger than `shard_bytes` gets a separate file.
        read: Returns a tensor. Only one file's tensors are in memory at a time.
        shard_bytes: Maximum size of a file (bytes).
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, n_bytes in sizes.items():
        if shards[-1] and size + n_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += n_bytes
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", {name: read(name) for name in shards[0]})
        return
    weight_map = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, {name: read(name) for name in shard})
        weight_map.update(dict.fromkeys(shard, file))
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(weight_map.items()))},
    )


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with the metadata that transformers requires.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path, {"format": "pt"}
        )
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    path.chmod(mode)  # The library creates files that only the owner can read.
