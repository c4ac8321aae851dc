"""Named tensors in checkpoint files, read on demand."""

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
"""Number of bytes that are read from a file before it is reopened, which releases the memory pages read so far."""

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Floating-point dtypes by their safetensors names; tensors of other dtypes are quantized and need a scale."""

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weight files; the index of a sharded model adds `.index.json`. Safetensors are preferred to pickles."""


@frozen(kw_only=True)
class TensorSource:
    """Tensors under the names that Hugging Face checkpoints of their family use."""

    shapes: Mapping[str, list[int]]
    """The shape of every tensor by name, available without reading a tensor."""
    dtypes: Mapping[str, torch.dtype]
    """The dtype of every floating-point tensor by name; tensors of other dtypes are absent."""
    read: Callable[[str], Tensor]
    """Read one tensor, which may be backed by its file.

    Raises:
        ValueError: The tensor is damaged.
    """
    source_names: Mapping[str, str] = field(factory=dict)
    """For messages: the names of tensors in the source, where they differ."""

    def source_name(self, name: str) -> str:
        """Return the name of a tensor in the source, for messages."""
        return self.source_names.get(name, name)

    def renamed(self, names: Mapping[str, str]) -> "TensorSource":
        """Return a selection of the tensors under new names.

        Args:
            names: The current names by the new names.
        """
        return TensorSource(
            shapes={new: self.shapes[old] for new, old in names.items()},
            dtypes={new: self.dtypes[old] for new, old in names.items() if old in self.dtypes},
            read=lambda name: self.read(names[name]),
            source_names={new: self.source_name(old) for new, old in names.items()},
        )


@define
class _File:
    """A weight file, which is opened on demand."""

    path: Path
    open: Callable[[Path], Any]
    tensors: Any = None
    """A dict, or a safetensors handle; None if the file is closed."""
    n_read: int = 0
    """Bytes read since the file was opened."""

    def read(self, name: str) -> Tensor:
        if self.tensors is None or self.n_read > _MAPPED_BYTES:
            self.tensors = None  # release the old memory map before creating the new one
            self.tensors = self.open(self.path)
            self.n_read = 0
        tensors = self.tensors
        tensor: Tensor = tensors[name] if isinstance(tensors, dict) else tensors.get_tensor(name)
        self.n_read += tensor.nbytes
        return tensor


def folder_tensors(folder: Path) -> TensorSource:
    """Open the weight files of a Hugging Face folder, as `file_tensors` does.

    Raises:
        FileNotFoundError: The folder has no weights, or a file is missing.
        ValueError: A file or the index is damaged, or the index does not match the files.
    """
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return file_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _indexed(folder, index)
    raise FileNotFoundError(
        f"no weights in {folder}; expected model.safetensors, model.safetensors.index.json or pytorch_model.bin"
    )


def file_tensors(path: Path) -> TensorSource:
    """Open a single file: safetensors or, with any other suffix, a pickle of tensors.

    The file is memory-mapped, so only tensors in use take memory. After every 16 MB read, it is mapped again, so that
    pages whose contents were copied do not stay resident. A tensor that is still in use keeps the mapping that it was
    read from.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, truncated, or contains objects other than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; download it again")
    is_safe = path.suffix == ".safetensors"
    file = _File(path, _open_safetensors if is_safe else _open_pickle)
    tensors = file.tensors = file.open(path)
    shapes, dtypes = {}, {}
    for name in tensors.keys():  # noqa: SIM118  A safetensors handle is not a mapping.
        tensor = tensors.get_slice(name) if is_safe else tensors[name]
        shapes[name] = list(tensor.get_shape() if is_safe else tensor.shape)
        dtype: torch.dtype | None = FLOATS.get(tensor.get_dtype()) if is_safe else tensor.dtype
        if dtype is not None and dtype in FLOATS.values():
            dtypes[name] = dtype
    return TensorSource(shapes=shapes, dtypes=dtypes, read=file.read)


def _indexed(folder: Path, index: Path) -> TensorSource:
    """Open the files that an index lists, and check that they contain its tensors."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError(
            f"{index} has no valid weight_map; expected a map of tensors to files; download it again"
        )
    files = dict[str, TensorSource]()
    for file_name in sorted(set(weight_map.values())):
        if Path(file_name).name != file_name:
            raise ValueError(f"{index} names {file_name!r}; expected a file in the same folder")
        file = file_tensors(folder / file_name)
        files |= dict.fromkeys(file.shapes, file)
    absent = sorted(weight_map.keys() - files.keys())
    if absent:
        raise ValueError(
            f"{index} lists {first_names(absent)}, which no file in {folder} contains; download it again"
        )
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
        raise ValueError(f"{path} is damaged or truncated ({error}); download it again") from error


def _open_pickle(path: Path) -> dict[str, Tensor]:
    """Open a file written by `torch.save`, without running code from it."""
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # torch warns about files that it then reads or rejects
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file may cause any exception
        # Torch's message advises allowing the code, so it is not shown.
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is not None:
            raise ValueError(
                f"{path} also contains {code[1]}, which may be code and is therefore not run; download the"
                " model's safetensors files instead"
            ) from error
        raise ValueError(
            f"{path} is damaged, or contains objects other than tensors, which are not loaded; download it again"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError(f"{path} is not a checkpoint; expected a dict of tensors by name")
    return tensors


def first_names(names: list[str], separator: str = ", ") -> str:
    """Join up to three names, followed by the number of remaining names."""
    return separator.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
