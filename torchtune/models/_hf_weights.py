"""Weights out of a Hugging Face folder."""

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from torchtune.models._families import FAMILIES
from torchtune.models._hf_config import read_hf_config, read_json
from torchtune.modules import Architecture, Decoder

_HEAD = "lm_head.weight"
_EMBEDDING = "embed_tokens.weight"
_IGNORED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
"""Ends of the names of tables that old checkpoints hold without need."""


def hf_name(name: str, family: str = "llama") -> str:
    """Name a decoder's parameter as Hugging Face's checkpoints do."""
    names = FAMILIES[family].names
    if not names:
        return name if name == _HEAD else f"model.{name}"
    for ours, theirs in names:
        inner = f".{ours}"
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
        elif inner in name:
            name = name.replace(inner, f".{theirs}")
    return name


def load_hf_weights(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Load the weights of a Hugging Face folder into a model, in the model's dtype.

    A model on the meta device gets the tensors themselves, on the CPU; one of the file's own dtype is
    then backed by the file, and memory is used only for what is changed.

    Args:
        model: Built to the same sizes; it may have LoRA adapters already, which are left alone.
        folder: Holds config.json and model.safetensors, or shards with their index; or a pytorch_model.bin.

    Raises:
        FileNotFoundError: the folder, its config.json or its safetensors are missing.
        ValueError: the folder's model is another one (sizes, constants, missing, unexpected or misshapen
            tensors), or a file is damaged.
    """
    assign = any(parameter.is_meta for parameter in model.parameters())
    state = hf_state(model, folder, cast=assign)
    model.load_state_dict(state, strict=False, assign=assign)  # Names were checked; adapters are not in it.


def hf_state(model: Decoder, folder: str | os.PathLike[str], *, cast: bool = True) -> dict[str, Tensor]:
    """Read the weights of a Hugging Face folder under our names, checked against a model.

    Args:
        model: Tells which names, shapes and dtypes are expected; it may be on the meta device.
        folder: As in `load_hf_weights`.
        cast: Give tensors the model's dtypes, not the file's.

    Raises:
        FileNotFoundError: as in `load_hf_weights`.
        ValueError: as in `load_hf_weights`.
    """
    folder = Path(folder)
    _check_architecture(model, folder)
    tensors = _read_tensors(folder)
    parameters = {
        name: parameter
        for name, parameter in model.state_dict().items()
        if not name.endswith((".lora_a", ".lora_b"))
    }
    groups = hf_groups(model.architecture, parameters)
    shapes = {
        theirs: [sum(parameters[n].shape[0] for n in names), *parameters[names[0]].shape[1:]]
        for theirs, names in groups.items()
    }
    turned = {theirs for theirs in groups if is_transposed(model.architecture, theirs)}
    _drop_ignorable(tensors, groups)
    _check_tensors({n: s[::-1] if n in turned else s for n, s in shapes.items()}, tensors, folder)
    state = {}
    for theirs, names in groups.items():
        tensor = tensors[theirs].T if theirs in turned else tensors[theirs]
        parts = torch.split(tensor, [parameters[name].shape[0] for name in names])
        for name, part in zip(names, parts, strict=True):
            state[name] = part.to(parameters[name].dtype) if cast else part
    return {name: state[name] for name in parameters}


def hf_groups(architecture: Architecture, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Name the tensors of a Hugging Face checkpoint, each with those of ours that stand in it, in their order."""
    groups: dict[str, tuple[str, ...]] = {}
    fused = {part: f for f in FAMILIES[architecture.family].fused for part in f.ours}
    for name in names:
        found = next((part for part in fused if f".{part}." in name), None)
        if found is None:
            groups[hf_name(name, architecture.family)] = (name,)
            continue
        f = fused[found]
        theirs = hf_name(name.replace(found, f.theirs), architecture.family)
        groups.setdefault(theirs, tuple(name.replace(found, part) for part in f.ours))
    return groups


def hf_tensors(architecture: Architecture, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of ours as a Hugging Face checkpoint holds them."""
    tensors = {
        theirs: state[names[0]] if len(names) == 1 else torch.cat([state[name] for name in names])
        for theirs, names in hf_groups(architecture, state).items()
    }
    return {name: t.T if is_transposed(architecture, name) else t for name, t in tensors.items()}


def is_transposed(architecture: Architecture, name: str) -> bool:
    """Tell whether a tensor lies in checkpoints the other way round, by its name there."""
    ends = FAMILIES[architecture.family].transposed
    return name.removesuffix(".weight").endswith(tuple(ends)) and name.endswith(".weight")


def _check_architecture(model: Decoder, folder: Path) -> None:
    """Compare numbers that shapes cannot show: a wrong rope_base loads, and talks nonsense."""
    ours, theirs = attrs.asdict(model.architecture), attrs.asdict(read_hf_config(folder))
    different = [
        f"{key} is {theirs[key]} there, {ours[key]} in the model"
        for key in ours
        if ours[key] != theirs[key] and key != "max_seq_len"
    ]
    if different:
        raise ValueError(f"{folder}/config.json describes another model: {'; '.join(different)}")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder, by the names in its files; safetensors are preferred to pickles."""
    for stem, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_pickle)):
        single, index = folder / stem, folder / f"{stem}.index.json"
        if single.is_file():
            return read(single)
        if index.is_file():
            return _read_shards(folder, index, read)
    raise FileNotFoundError(
        f"no model.safetensors (nor model.safetensors.index.json, nor pytorch_model.bin) in {folder}"
    )


def _read_shards(folder: Path, index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Read the files that an index names, and check that each holds what the index says.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the index is damaged, or belongs to other files.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError(f"{index} has no weight_map of tensors to files; fetch it again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise ValueError(f"{index} names {name!r}, which is no file of its folder")
        tensors.update(read(folder / name))
    if absent := weight_map.keys() - tensors.keys():
        raise ValueError(
            f"{index} speaks of {_some(absent)}, which no file of {folder} holds; fetch it again"
        )
    return tensors


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read one file that torch.save wrote, without running any code of it; its tensors stay backed by it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; fetch it again")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of whatever kind a damaged file causes
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, which is not run: {reason}"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"{path} holds something else than tensors by name")
    return found


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read one safetensors file; its tensors stay backed by it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or cut short.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; fetch it again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error


def _drop_ignorable(tensors: dict[str, Tensor], expected: Mapping[str, Any]) -> None:
    """Take out what some checkpoints hold without need: rotary tables, and a second copy of a tied head."""
    for name in [name for name in tensors if name.endswith(_IGNORED)]:
        del tensors[name]
    if any(name.startswith("transformer.") for name in expected):  # OpenAI's own files leave that part out
        for name in [name for name in tensors if not name.startswith(("transformer.", _HEAD))]:
            tensors[f"transformer.{name}"] = tensors.pop(name)
    embedding_name = next(name for name in expected if name.endswith((_EMBEDDING, "transformer.wte.weight")))
    head, embedding = tensors.get(_HEAD), tensors.get(embedding_name)
    if _HEAD not in expected and head is not None and embedding is not None and torch.equal(head, embedding):
        del tensors[_HEAD]


def _check_tensors(shapes: dict[str, list[int]], tensors: dict[str, Tensor], folder: Path) -> None:
    missing, unexpected = shapes.keys() - tensors.keys(), tensors.keys() - shapes.keys()
    misshapen = [
        f"{name} is {list(tensors[name].shape)} there, {shape} in the model"
        for name, shape in shapes.items()
        if name in tensors and list(tensors[name].shape) != shape
    ]
    mistakes = [
        *([f"without {_some(missing)}"] if missing else []),
        *([f"with {_some(unexpected)}, unknown to the model"] if unexpected else []),
        *([_some(misshapen, "; ")] if misshapen else []),
    ]
    if mistakes:
        raise ValueError(f"the weights in {folder} are another model's: {'; '.join(mistakes)}")


def _some(names: Iterable[str], separator: str = ", ") -> str:
    """List the first few of many names."""
    names = sorted(names)
    return separator.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
