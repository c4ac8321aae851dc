"""Weights out of a Hugging Face folder."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from torchtune.formats._quantised import check_unquantised_tensors
from torchtune.formats._tensor_files import TensorSource, folder_tensors, some
from torchtune.formats._wrapped_names import is_wrapped, matched_names
from torchtune.formats.hf._config import read_hf_config
from torchtune.models import FAMILIES
from torchtune.modules import Architecture, Decoder

_HEAD = "lm_head.weight"


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


def stored_dtypes(folder: str | os.PathLike[str]) -> set[torch.dtype]:
    """Return the precisions that a Hugging Face folder's weights are stored in; the tensors are not read.

    Raises:
        FileNotFoundError: there are none, or a file of them is missing.
        ValueError: a file or the index is damaged.
    """
    return set(folder_tensors(Path(folder)).dtypes.values())


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
    """Read the weights of a Hugging Face folder one by one, once all are known to fit a model.

    Args:
        model: Tells which names and shapes are expected; it may be on the meta device, and have adapters.
        folder: As in `load_hf_weights`.

    Yields:
        Our name of each parameter, and its tensor, of the file's dtype and backed by it. What is neither kept nor in
        use any more takes no memory.

    Raises:
        FileNotFoundError: as in `load_hf_weights`.
        ValueError: as in `load_hf_weights`.
    """
    return weights_of(model, hf_tensors(model, Path(folder)))


def hf_tensors(model: Decoder, folder: Path) -> TensorSource:
    """Look into the weights of a Hugging Face folder, once all are known to fit a model; as `read_hf_weights` does."""
    _check_architecture(model, folder)
    shapes = expected_shapes(model)
    source = _needed(folder_tensors(folder), shapes, model.architecture.family)
    check_unquantised_tensors(folder, source, shapes.keys())
    check_tensors(shapes, source, folder)
    return source


def weights_of(model: Decoder, source: TensorSource, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Read weights one by one, unchecked.

    Args:
        model: Tells which names and shapes are expected.
        source: By the names of Hugging Face's checkpoints; what it does not hold is left out.
        prefix: What our names begin with of those that are read.
    """
    parameters = _without_adapters(model)
    for theirs, names in hf_groups(model.architecture, parameters).items():
        if not names[0].startswith(prefix) or theirs not in source.shapes:
            continue
        tensor = source.read(theirs)
        if is_transposed(model.architecture, theirs):
            tensor = tensor.T
        yield from zip(names, torch.split(tensor, [parameters[n].shape[0] for n in names]), strict=True)


def expected_shapes(model: Decoder) -> dict[str, list[int]]:
    """Return the shapes of a model's tensors as Hugging Face's checkpoints hold them, adapters left out."""
    parameters = _without_adapters(model)
    shapes = {}
    for theirs, names in hf_groups(model.architecture, parameters).items():
        shape = [sum(parameters[n].shape[0] for n in names), *parameters[names[0]].shape[1:]]
        shapes[theirs] = shape[::-1] if is_transposed(model.architecture, theirs) else shape
    return shapes


def _without_adapters(model: Decoder) -> dict[str, Tensor]:
    return {n: p for n, p in model.state_dict().items() if ".adapter." not in n}


def hf_groups(architecture: Architecture, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Name the tensors of a Hugging Face checkpoint, each with those of ours that stand in it, in their order."""
    groups: dict[str, tuple[str, ...]] = {}
    fused = {part: f for f in FAMILIES[architecture.family].fused for part in f.parts}
    for name in names:
        found = next((part for part in fused if f".{part}." in name), None)
        if found is None:
            groups[hf_name(name, architecture.family)] = (name,)
            continue
        f = fused[found]
        theirs = hf_name(name.replace(found, f.fused), architecture.family)
        groups.setdefault(theirs, tuple(name.replace(found, part) for part in f.parts))
    return groups


def hf_tensor(
    architecture: Architecture, state: Mapping[str, Tensor], name: str, parts: Iterable[str]
) -> Tensor:
    """Return one tensor as a Hugging Face checkpoint holds it.

    Args:
        architecture: The decoder's.
        state: Weights by our names.
        name: The checkpoint's name.
        parts: Ours of what stands in it (`hf_groups`).
    """
    found = [state[part] for part in parts]
    whole = found[0] if len(found) == 1 else torch.cat(found)
    return whole.T if is_transposed(architecture, name) else whole


def is_transposed(architecture: Architecture, name: str) -> bool:
    """Tell whether a tensor lies in checkpoints the other way round, by its name there."""
    ends = FAMILIES[architecture.family].transposed
    return name.removesuffix(".weight").endswith(tuple(ends)) and name.endswith(".weight")


def _check_architecture(model: Decoder, folder: Path) -> None:
    """Compare numbers that shapes cannot show: a wrong rope_base loads, and talks nonsense."""
    ours, theirs = model.architecture.flat(), read_hf_config(folder).flat()
    different = [
        f"{key} is {theirs[key]} there, {ours[key]} in the model"
        for key in ours
        if ours[key] != theirs[key] and key != "max_seq_len"
    ]
    if different:
        raise ValueError(f"{folder}/config.json describes another model: {'; '.join(different)}")


def _needed(source: TensorSource, expected: Mapping[str, list[int]], family: str) -> TensorSource:
    """Name tensors as the model does, without those that some checkpoints hold in vain.

    These are rotary tables, and a second copy of a tied head.
    """
    needed = [name for name in source.shapes if not name.endswith(FAMILIES[family].obsolete)]
    names = matched_names(needed, [*expected, _HEAD])
    embedding = hf_name("embed_tokens.weight", family)
    is_extra = _HEAD not in expected and {_HEAD, embedding} <= names.keys()
    if is_extra and torch.equal(source.read(names[_HEAD]), source.read(names[embedding])):
        del names[_HEAD]
    return source.renamed(names)


def check_tensors(shapes: Mapping[str, list[int]], source: TensorSource, where: Path) -> None:
    """Compare what a source holds with what a model needs.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen.
    """
    found = source.shapes
    missing = sorted(map(source.own_name, shapes.keys() - found.keys()))
    unexpected = sorted(map(source.own_name, found.keys() - shapes.keys()))
    misshapen = [
        f"{source.own_name(name)} is {list(found[name])} there, {shape} in the model"
        for name, shape in shapes.items()
        if name in found and list(found[name]) != shape
    ]
    mistakes = [
        *([f"without {some(missing)}"] if missing else []),
        *([f"with {some(unexpected)}, unknown to the model"] if unexpected else []),
        *([some(sorted(misshapen), "; ")] if misshapen else []),
    ]
    if any(map(is_wrapped, unexpected)):
        mistakes.append(
            "prefixes such as module. and _orig_mod. are stripped only where the rest is one of its names"
        )
    if any(".lora_" in name for name in unexpected):
        mistakes.append("adapters are to be merged into the weights first (PEFT's merge_and_unload)")
    if mistakes:
        raise ValueError(f"the weights in {where} are another model's: {'; '.join(mistakes)}")
