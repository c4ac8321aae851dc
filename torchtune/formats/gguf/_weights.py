"""A GGUF file's tensors under the names, and in the order, of Hugging Face's checkpoints."""

from collections.abc import Iterable

import torch
from attrs import define, field
from torch import Tensor

from torchtune.formats._rotary_halves import halves_apart
from torchtune.formats.gguf._config import ROPE_FREQS
from torchtune.formats.gguf._file import GGUFFile
from torchtune.formats.hf._weights import is_transposed
from torchtune.modules import Architecture


@define
class GGUFWeights:
    """The weights in a GGUF file, dequantised to float32 one by one.

    Args:
        file: Where they stand.
        architecture: The model's.
        expected: The names of its weights in a Hugging Face checkpoint.
    """

    file: GGUFFile
    architecture: Architecture
    expected: Iterable[str]
    shapes: dict[str, list[int]] = field(init=False)
    _names: dict[str, str] = field(init=False)
    """The file's names by Hugging Face's."""

    def __attrs_post_init__(self) -> None:
        arch = self.file.metadata["general.architecture"]
        self._names = _file_names(arch, self.architecture.num_layers, self.expected)
        known = {*self._names.values(), ROPE_FREQS}
        self.shapes = {name: list(t.shape) for name, t in self.file.tensors.items() if name not in known}
        for name, theirs in self._names.items():
            if theirs in self.file.tensors:
                shape = list(self.file.tensors[theirs].shape)
                self.shapes[name] = shape[::-1] if is_transposed(self.architecture, name) else shape

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Float32, which is what all are dequantised to."""
        return dict.fromkeys(self.shapes, torch.float32)

    def read(self, name: str) -> Tensor:
        """Read one tensor, as float32."""
        a = self.architecture
        tensor = torch.from_numpy(self.file.read(self._names[name]))
        if a.family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = halves_apart(tensor, a.head_dim)
        if a.norm_offset and name.endswith("norm.weight"):  # llama.cpp's converter adds it
            tensor = tensor - a.norm_offset
        return tensor.T if is_transposed(a, name) else tensor

    def own_name(self, name: str) -> str:
        """Return the file's name of a tensor."""
        return self._names.get(name, name)


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
