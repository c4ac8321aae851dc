"""The tensors of a checkpoint's files by name, each read when it is asked for."""

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from attrs import define, field
from torch import Tensor

from torchtune.files import read_json

_MAPPED_BYTES = 2**24
"""What is read of a file before it is opened anew, so that the pages read are given back (bytes)."""

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Dtypes that mean their numbers by themselves, by the names of safetensors; others are quantised, with a scale."""

_STEMS = ("model.safetensors", "pytorch_model.bin")
"""A folder's weights, or their index; safetensors are preferred to pickles."""


class TensorSource(Protocol):
    """Where weights come from: tensors under the names that Hugging Face's checkpoints of their family have."""

    @property
    def shapes(self) -> Mapping[str, list[int]]:
        """Every tensor's shape by its name, known without reading any."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """The dtype of every tensor of plain floating-point numbers by its name; those of other numbers are absent."""

    def read(self, name: str) -> Tensor:
        """Read one tensor; it may stay backed by its file.

        Raises:
            ValueError: it is damaged.
        """

    def own_name(self, name: str) -> str:
        """Return what the source itself calls a tensor, for messages."""


@define
class _File:
    """One file, open or not."""

    path: Path
    open: Callable[[Path], Any]
    tensors: Any = None
    """A mapping, or a handle of safetensors; None: not open."""
    n_read: int = 0
    """Bytes read since it was opened."""

    def read(self, name: str) -> Tensor:
        if self.tensors is None or self.n_read > _MAPPED_BYTES:
            self.tensors = None  # the old mapping goes before the new one comes
            self.tensors = self.open(self.path)
            self.n_read = 0
        tensors = self.tensors
        tensor: Tensor = tensors[name] if isinstance(tensors, dict) else tensors.get_tensor(name)
        self.n_read += tensor.nbytes
        return tensor


@define
class TensorFiles:
    """Tensors in files that are mapped into memory: only what is read takes any, and only while it is in use.

    A file is mapped anew every 16 MB, so that what was read and copied elsewhere does not stay resident; a tensor that
    is kept keeps its own mapping.
    """

    shapes: dict[str, list[int]] = field(factory=dict)
    dtypes: dict[str, torch.dtype] = field(factory=dict)
    _files: dict[str, _File] = field(factory=dict)
    _names: dict[str, str] = field(factory=dict)
    """What the files call those that were renamed."""

    def add(self, path: Path) -> None:
        """Look into one more file: safetensors or, with any other ending, a pickle of tensors.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, cut short, or holds more than tensors.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no {path.name} in {path.parent}; fetch it again")
        is_safe = path.suffix == ".safetensors"
        file = _File(path, _open_safetensors if is_safe else _open_pickle)
        tensors = file.tensors = file.open(path)
        for name in tensors.keys():  # noqa: SIM118  A handle of safetensors is no mapping.
            part = tensors.get_slice(name) if is_safe else tensors[name]
            self.shapes[name] = list(part.get_shape() if is_safe else part.shape)
            self._files[name] = file
            dtype: torch.dtype | None = _FLOATS.get(part.get_dtype()) if is_safe else part.dtype
            if dtype is not None and dtype in _FLOATS.values():
                self.dtypes[name] = dtype

    def read(self, name: str) -> Tensor:
        """Read one tensor, backed by its file."""
        return self._files[name].read(self._names.get(name, name))

    def own_name(self, name: str) -> str:
        """Return the name itself."""
        return name

    def drop(self, name: str) -> None:
        """Forget a tensor."""
        del self.shapes[name], self._files[name]
        self.dtypes.pop(name, None)

    def rename(self, old: str, new: str) -> None:
        """Call a tensor otherwise."""
        self.shapes[new] = self.shapes.pop(old)
        self._files[new] = self._files.pop(old)
        if old in self.dtypes:
            self.dtypes[new] = self.dtypes.pop(old)
        self._names[new] = self._names.pop(old, old)


def folder_tensors(folder: Path) -> TensorFiles:
    """Look into the files of a Hugging Face folder's weights.

    Raises:
        FileNotFoundError: there are none, or one of them is missing.
        ValueError: a file or the index is damaged, or the index belongs to other files.
    """
    for stem in _STEMS:
        if (folder / stem).is_file():
            return one_file(folder / stem)
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return _indexed(folder, index)
    raise FileNotFoundError(
        f"no model.safetensors (nor model.safetensors.index.json, nor pytorch_model.bin) in {folder}"
    )


def one_file(path: Path) -> TensorFiles:
    """Look into a single file; what is raised is that of `TensorFiles.add`."""
    files = TensorFiles()
    files.add(path)
    return files


def _indexed(folder: Path, index: Path) -> TensorFiles:
    """Look into the files that an index names, and check that they hold what it says."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError(f"{index} has no weight_map of tensors to files; fetch it again")
    files = TensorFiles()
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise ValueError(f"{index} names {name!r}, which is no file of its folder")
        files.add(folder / name)
    absent = sorted(weight_map.keys() - files.shapes.keys())
    if absent:
        raise ValueError(f"{index} speaks of {some(absent)}, which no file of {folder} holds; fetch it again")
    return files


def _open_safetensors(path: Path) -> Any:  # The library's handle is untyped.
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error


def _open_pickle(path: Path) -> dict[str, Tensor]:
    """Open a file that torch.save wrote, without running any code of it."""
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of what it then reads, or refuses
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of whatever kind a damaged file causes
        # torch's own message advises to run what is in the file.
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is not None:
            raise ValueError(
                f"{path} holds {code[1]} beside tensors, which might be code and is not run; fetch the model's"
                " safetensors"
            ) from error
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, which is not run; fetch it again"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"{path} holds something else than tensors by name")
    return found


def some(names: list[str], separator: str = ", ") -> str:
    """List the first few of many names."""
    return separator.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
