"""The tensors of a checkpoint's files by name, each read when it is asked for."""

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor

from torchtune.files import read_json

_MAPPED_BYTES = 2**24
"""What is read of a file before it is opened anew, so that the pages read are given back (bytes)."""

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Dtypes that mean their numbers by themselves, by the names of safetensors; others are quantised, with a scale."""

_STEMS = ("model.safetensors", "pytorch_model.bin")
"""A folder's weights, or their index; safetensors are preferred to pickles."""


@frozen(kw_only=True)
class TensorSource:
    """Where weights come from: tensors under the names that Hugging Face's checkpoints of their family have."""

    shapes: Mapping[str, list[int]]
    """Every tensor's shape by its name, known without reading any."""
    dtypes: Mapping[str, torch.dtype]
    """The dtype of every tensor of plain floating-point numbers by its name; those of other numbers are absent."""
    read: Callable[[str], Tensor]
    """Read one tensor; it may stay backed by its file.

    Raises:
        ValueError: it is damaged.
    """
    own_names: Mapping[str, str] = field(factory=dict)
    """What the source itself calls tensors, for messages, where that is another name."""

    def own_name(self, name: str) -> str:
        """Return what the source itself calls a tensor, for messages."""
        return self.own_names.get(name, name)

    def renamed(self, names: Mapping[str, str]) -> "TensorSource":
        """Return some of the tensors under other names, given the names here by the new ones."""
        return TensorSource(
            shapes={new: self.shapes[old] for new, old in names.items()},
            dtypes={new: self.dtypes[old] for new, old in names.items() if old in self.dtypes},
            read=lambda name: self.read(names[name]),
            own_names={new: self.own_name(old) for new, old in names.items()},
        )


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


def folder_tensors(folder: Path) -> TensorSource:
    """Look into the files of a Hugging Face folder's weights, as `one_file` does.

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


def one_file(path: Path) -> TensorSource:
    """Look into a single file: safetensors or, with any other ending, a pickle of tensors.

    The file is mapped into memory: only what is read takes any, and only while it is in use. It is mapped anew every
    16 MB, so that what was read and copied elsewhere does not stay resident; a tensor that is kept keeps its own
    mapping.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, cut short, or holds more than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; fetch it again")
    is_safe = path.suffix == ".safetensors"
    file = _File(path, _open_safetensors if is_safe else _open_pickle)
    tensors = file.tensors = file.open(path)
    shapes, dtypes = {}, {}
    for name in tensors.keys():  # noqa: SIM118  A handle of safetensors is no mapping.
        part = tensors.get_slice(name) if is_safe else tensors[name]
        shapes[name] = list(part.get_shape() if is_safe else part.shape)
        dtype: torch.dtype | None = _FLOATS.get(part.get_dtype()) if is_safe else part.dtype
        if dtype is not None and dtype in _FLOATS.values():
            dtypes[name] = dtype
    return TensorSource(shapes=shapes, dtypes=dtypes, read=file.read)


def _indexed(folder: Path, index: Path) -> TensorSource:
    """Look into the files that an index names, and check that they hold what it says."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError(f"{index} has no weight_map of tensors to files; fetch it again")
    files = dict[str, TensorSource]()
    for file_name in sorted(set(weight_map.values())):
        if Path(file_name).name != file_name:
            raise ValueError(f"{index} names {file_name!r}, which is no file of its folder")
        file = one_file(folder / file_name)
        files |= dict.fromkeys(file.shapes, file)
    absent = sorted(weight_map.keys() - files.keys())
    if absent:
        raise ValueError(f"{index} speaks of {some(absent)}, which no file of {folder} holds; fetch it again")
    return TensorSource(
        shapes={name: file.shapes[name] for name, file in files.items()},
        dtypes={name: file.dtypes[name] for name, file in files.items() if name in file.dtypes},
        read=lambda name: files[name].read(name),
    )


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
