"""A GGUF file's tensors under the names, and in the order, of Hugging Face's checkpoints."""

from collections.abc import Iterable

import torch
from torch import Tensor

from torchtune.formats._rotary_halves import halves_apart
from torchtune.formats._tensor_files import TensorSource
from torchtune.formats.gguf._config import ROPE_FREQS
from torchtune.formats.gguf._file import GGUFFile
from torchtune.formats.hf._weights import is_transposed
from torchtune.models import FAMILIES
from torchtune.modules import Architecture


def gguf_weights(file: GGUFFile, architecture: Architecture, expected: Iterable[str]) -> TensorSource:
    """Return the weights in a GGUF file, dequantised to float32 one by one.

    Args:
        file: Where they stand.
        architecture: The model's.
        expected: The names of its weights in a Hugging Face checkpoint.
    """
    names = _file_names(file.metadata["general.architecture"], architecture.num_layers, expected)
    known = {*names.values(), ROPE_FREQS}
    shapes = {name: list(t.shape) for name, t in file.tensors.items() if name not in known}
    for name, theirs in names.items():
        if theirs in file.tensors:
            shape = list(file.tensors[theirs].shape)
            shapes[name] = shape[::-1] if is_transposed(architecture, name) else shape

    offset = architecture.flat().get("norm_offset", 0.0)

    def read(name: str) -> Tensor:
        tensor = torch.from_numpy(file.read(names[name]))
        if FAMILIES[architecture.family].gguf_pairs_adjacent_channels and name.endswith(
            ("q_proj.weight", "k_proj.weight")
        ):
            tensor = halves_apart(tensor, architecture.attention.rotary_dim)
        if offset and name.endswith("norm.weight"):  # llama.cpp's converter adds it
            tensor = tensor - offset
        return tensor.T if is_transposed(architecture, name) else tensor

    dtypes = dict.fromkeys(shapes, torch.float32)
    return TensorSource(shapes=shapes, dtypes=dtypes, read=read, own_names=names)


def _file_names(arch: str, num_layers: int, names: Iterable[str]) -> dict[str, str]:
    """Return GGUF's names of tensors by Hugging Face's."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    known = get_tensor_name_map(MODEL_ARCH[arch.upper()], num_layers)
    found: dict[str, str] = {}
    for name in names:
        theirs = known.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        found[name] = theirs
    return found
