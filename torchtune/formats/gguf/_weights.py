"""The tensors of a GGUF file, with the names and the layout of Hugging Face checkpoints."""

from collections.abc import Iterable

import torch
from torch import Tensor

from torchtune.formats._rotary_halves import deinterleave
from torchtune.formats._tensor_files import TensorSource
from torchtune.formats.gguf._config import ROPE_FREQS
from torchtune.formats.gguf._file import GGUFFile
from torchtune.formats.hf._weights import is_transposed
from torchtune.models import FAMILIES
from torchtune.modules import Architecture


def gguf_weights(file: GGUFFile, architecture: Architecture, expected: Iterable[str]) -> TensorSource:
    """Return the weights of a GGUF file, each dequantized to float32 when it is read.

    Args:
        file: The file.
        architecture: The architecture of the model.
        expected: The names of the model's weights in a Hugging Face checkpoint.
    """
    names = _file_names(file.metadata["general.architecture"], architecture.num_layers, expected)
    used_names = {*names.values(), ROPE_FREQS}
    shapes = {name: list(t.shape) for name, t in file.tensors.items() if name not in used_names}
    for name, gguf_name in names.items():
        if gguf_name in file.tensors:
            shape = list(file.tensors[gguf_name].shape)
            shapes[name] = shape[::-1] if is_transposed(architecture, name) else shape

    offset = architecture.flat().get("norm_offset", 0.0)

    def read(name: str) -> Tensor:
        tensor = torch.from_numpy(file.read(names[name]))
        if FAMILIES[architecture.family].gguf_pairs_adjacent_channels and name.endswith(
            ("q_proj.weight", "k_proj.weight")
        ):
            tensor = deinterleave(tensor, architecture.attention.rotary_dim)
        if offset and name.endswith("norm.weight"):  # added by llama.cpp's converter
            tensor = tensor - offset
        return tensor.T if is_transposed(architecture, name) else tensor

    dtypes = dict.fromkeys(shapes, torch.float32)
    return TensorSource(shapes=shapes, dtypes=dtypes, read=read, source_names=names)


def _file_names(arch: str, num_layers: int, names: Iterable[str]) -> dict[str, str]:
    """Return the GGUF names of tensors by their Hugging Face names."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    name_map = get_tensor_name_map(MODEL_ARCH[arch.upper()], num_layers)
    gguf_names: dict[str, str] = {}
    for name in names:
        gguf_name = name_map.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name is not None, name
        gguf_names[name] = gguf_name
    return gguf_names
