"""Read the weights of a Hugging Face folder."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from torchtune.formats._quantized import check_unquantized_tensors
from torchtune.formats._tensor_files import TensorSource, first_names, folder_tensors
from torchtune.formats._wrapped_names import is_wrapped, matched_names
from torchtune.formats.hf._config import read_hf_config
from torchtune.models import FAMILIES
from torchtune.modules import Architecture, Decoder

_HEAD = "lm_head.weight"


def hf_name(name: str, family: str = "llama") -> str:
    """Return the name of a decoder's parameter in Hugging Face checkpoints."""
    names = FAMILIES[family].names
    if not names:
        return name if name == _HEAD else f"model.{name}"
    for model_name, checkpoint_name in names:
        inner = f".{model_name}"
        if name.startswith(model_name):
            name = checkpoint_name + name.removeprefix(model_name)
        elif inner in name:
            name = name.replace(inner, f".{checkpoint_name}")
    return name


def stored_dtypes(folder: str | os.PathLike[str]) -> set[torch.dtype]:
    """Return the dtypes of the weights in a Hugging Face folder, without reading the tensors.

    Raises:
        FileNotFoundError: The folder has no weights, or a file is missing.
        ValueError: A file or the index is damaged.
    """
    return set(folder_tensors(Path(folder)).dtypes.values())


def load_hf_weights(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Load the weights of a Hugging Face folder into a model, in the model's dtype.

    The parameters of a model on the meta device are replaced by CPU tensors. If they have the dtype of the file, they
    are memory-mapped, and only changed pages take memory.

    Args:
        model: A model with the same sizes; its LoRA adapters, if any, are not changed.
        folder: Contains config.json, and model.safetensors, shards with their index, or pytorch_model.bin.

    Raises:
        FileNotFoundError: The folder, its config.json or its weights are missing.
        ValueError: The folder contains a different model (different sizes or constants, or missing, unexpected or
            wrongly shaped tensors), or a file is damaged.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in read_hf_weights(model, folder):
        parameter = parameters[name]
        if parameter.is_meta:
            path, _, leaf = name.rpartition(".")
            value = nn.Parameter(tensor.to(parameter.dtype), requires_grad=parameter.requires_grad)
            setattr(model.get_submodule(path), leaf, value)
        else:
            with torch.no_grad():
                parameter.copy_(tensor)


def read_hf_weights(model: Decoder, folder: str | os.PathLike[str]) -> Iterator[tuple[str, Tensor]]:
    """Check that the weights of a Hugging Face folder match a model, then read them one by one.

    Args:
        model: Defines the expected names and shapes; it may be on the meta device, and have adapters.
        folder: As in `load_hf_weights`.

    Yields:
        The name of each parameter of the model, and its tensor, in the dtype of the file and memory-mapped. A tensor
        that is not kept takes no memory after use.

    Raises:
        FileNotFoundError: As in `load_hf_weights`.
        ValueError: As in `load_hf_weights`.
    """
    return iter_weights(model, hf_tensors(model, Path(folder)))


def hf_tensors(model: Decoder, folder: Path) -> TensorSource:
    """Open the weights of a Hugging Face folder and check that they match a model, as in `read_hf_weights`."""
    _check_architecture(model, folder)
    shapes = expected_shapes(model)
    source = _needed(folder_tensors(folder), shapes, model.architecture.family)
    check_unquantized_tensors(folder, source, shapes.keys())
    check_tensors(shapes, source, folder)
    return source


def iter_weights(model: Decoder, source: TensorSource, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a model by parameter name, without checks.

    Args:
        model: Defines the expected names and shapes.
        source: The weights, by Hugging Face name; parameters that it does not contain are skipped.
        prefix: Only parameters whose names have this prefix are read.
    """
    parameters = _without_adapters(model)
    for checkpoint_name, names in hf_groups(model.architecture, parameters).items():
        if not names[0].startswith(prefix) or checkpoint_name not in source.shapes:
            continue
        tensor = source.read(checkpoint_name)
        if is_transposed(model.architecture, checkpoint_name):
            tensor = tensor.T
        yield from zip(names, torch.split(tensor, [parameters[n].shape[0] for n in names]), strict=True)


def expected_shapes(model: Decoder) -> dict[str, list[int]]:
    """Return the shapes of a model's tensors in Hugging Face checkpoints, without adapters."""
    parameters = _without_adapters(model)
    shapes = {}
    for checkpoint_name, names in hf_groups(model.architecture, parameters).items():
        shape = [sum(parameters[n].shape[0] for n in names), *parameters[names[0]].shape[1:]]
        shapes[checkpoint_name] = shape[::-1] if is_transposed(model.architecture, checkpoint_name) else shape
    return shapes


def _without_adapters(model: Decoder) -> dict[str, Tensor]:
    return {n: p for n, p in model.state_dict().items() if ".adapter." not in n}


def hf_groups(architecture: Architecture, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Map the names of Hugging Face tensors to the names of the parameters that each one fuses, in order."""
    groups: dict[str, tuple[str, ...]] = {}
    fused = {part: f for f in FAMILIES[architecture.family].fused for part in f.parts}
    for name in names:
        fused_part = next((part for part in fused if f".{part}." in name), None)
        if fused_part is None:
            groups[hf_name(name, architecture.family)] = (name,)
            continue
        f = fused[fused_part]
        checkpoint_name = hf_name(name.replace(fused_part, f.fused), architecture.family)
        groups.setdefault(checkpoint_name, tuple(name.replace(fused_part, part) for part in f.parts))
    return groups


def hf_tensor(
    architecture: Architecture, state: Mapping[str, Tensor], name: str, parts: Iterable[str]
) -> Tensor:
    """Return one tensor in the layout of a Hugging Face checkpoint.

    Args:
        architecture: The architecture of the decoder.
        state: The weights of the decoder.
        name: The name of the tensor in the checkpoint.
        parts: The names of the parameters that the tensor fuses (`hf_groups`).
    """
    tensors = [state[part] for part in parts]
    tensor = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    return tensor.T if is_transposed(architecture, name) else tensor


def is_transposed(architecture: Architecture, name: str) -> bool:
    """Return whether checkpoints store a tensor, given its checkpoint name, transposed."""
    ends = FAMILIES[architecture.family].transposed
    return name.removesuffix(".weight").endswith(tuple(ends)) and name.endswith(".weight")


def _check_architecture(model: Decoder, folder: Path) -> None:
    """Compare settings that tensor shapes do not reveal: with a wrong rope_base, weights load but outputs are wrong."""
    expected, config = model.architecture.flat(), read_hf_config(folder).flat()
    different = [
        f"{key} is {config[key]}, expected {expected[key]}"
        for key in expected
        if expected[key] != config[key] and key != "max_seq_len"
    ]
    if different:
        raise ValueError(f"{folder}/config.json describes a different model: {'; '.join(different)}")


def _needed(source: TensorSource, expected: Mapping[str, list[int]], family: str) -> TensorSource:
    """Rename tensors as in the model, and drop redundant ones.

    Some checkpoints contain rotary tables, or a copy of a tied output head.
    """
    needed = [name for name in source.shapes if not name.endswith(FAMILIES[family].obsolete)]
    names = matched_names(needed, [*expected, _HEAD])
    embedding = hf_name("embed_tokens.weight", family)
    has_extra_head = _HEAD not in expected and {_HEAD, embedding} <= names.keys()
    if has_extra_head and torch.equal(source.read(names[_HEAD]), source.read(names[embedding])):
        del names[_HEAD]
    return source.renamed(names)


def check_tensors(shapes: Mapping[str, list[int]], source: TensorSource, path: Path) -> None:
    """Check that a source has the tensors that a model expects.

    Raises:
        ValueError: Tensors are missing, unexpected, or have the wrong shape.
    """
    source_shapes = source.shapes
    missing = sorted(map(source.source_name, shapes.keys() - source_shapes.keys()))
    unexpected = sorted(map(source.source_name, source_shapes.keys() - shapes.keys()))
    wrong_shapes = [
        f"{source.source_name(name)} has shape {list(source_shapes[name])}, expected {shape}"
        for name, shape in shapes.items()
        if name in source_shapes and list(source_shapes[name]) != shape
    ]
    problems = [
        *([f"missing {first_names(missing)}"] if missing else []),
        *([f"unexpected {first_names(unexpected)}"] if unexpected else []),
        *([first_names(sorted(wrong_shapes), "; ")] if wrong_shapes else []),
    ]
    if any(map(is_wrapped, unexpected)):
        problems.append(
            "prefixes such as module. and _orig_mod. are removed only if the remaining name is in the model"
        )
    if any(".lora_" in name for name in unexpected):
        problems.append("merge the adapters into the weights first (PEFT's merge_and_unload)")
    if problems:
        raise ValueError(f"the weights in {path} do not match the model: {'; '.join(problems)}")
